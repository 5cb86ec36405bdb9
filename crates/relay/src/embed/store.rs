//! How much came of the widget on each site: what its owners can thank their visitors for.

use crate::db::{Db, DbError, Writing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sites that are counted: anybody can name one. Results of further ones count as any, only not for their site.
const MAX_SITES: i64 = 10_000;

/// Accepted results by site.
pub(crate) type Counts = BTreeMap<Arc<str>, i64>;

/// How many of some results came from which site.
pub(crate) fn by_site<'a>(sites: impl IntoIterator<Item = &'a Option<Arc<str>>>) -> Counts {
    let mut counts = Counts::new();
    for site in sites.into_iter().flatten() {
        *counts.entry(Arc::clone(site)).or_default() += 1;
    }
    counts
}

/// Counts accepted results, as a part of what makes them durable: a statement a site, none where no results came from one.
pub(crate) async fn count(tx: &mut Writing, counts: &Counts) -> Result<(), DbError> {
    for (site, results) in counts {
        sqlx::query(
            "INSERT INTO embedders (origin, accepted) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT)
             WHERE (SELECT COUNT(*) FROM embedders) < $3 OR EXISTS (SELECT 1 FROM embedders WHERE origin = $1)
             ON CONFLICT (origin) DO UPDATE SET accepted = embedders.accepted + excluded.accepted",
        )
        .bind(&**site)
        .bind(results)
        .bind(MAX_SITES)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

impl Db {
    /// Accepted results that came from a site.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn embedded(&self, site: &str) -> Result<u64, DbError> {
        let row: Option<i64> = sqlx::query_scalar("SELECT accepted FROM embedders WHERE origin = $1")
            .bind(site)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.unwrap_or(0).cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_are_counted_by_site_and_no_more_sites_than_there_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("potluck.db");
        let db = crate::db::open_files(&path).await.unwrap();
        let add = async |site: &str, results| {
            let mut tx = db.begin().await.unwrap();
            count(&mut tx, &Counts::from([(site.into(), results)])).await.unwrap();
            tx.commit().await.unwrap();
        };
        add("https://a.example", 2).await;
        add("https://b.example", 1).await;
        add("https://a.example", 3).await;
        assert_eq!(db.embedded("https://a.example").await.unwrap(), 5);
        assert_eq!(db.embedded("https://c.example").await.unwrap(), 0);
        sqlx::query(
            "WITH RECURSIVE n (i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
             INSERT INTO embedders SELECT 'https://' || i || '.example', 1 FROM n",
        )
        .bind(MAX_SITES)
        .execute(&db.pool)
        .await
        .unwrap();
        add("https://late.example", 1).await;
        add("https://a.example", 1).await;
        assert_eq!(db.embedded("https://late.example").await.unwrap(), 0);
        assert_eq!(db.embedded("https://a.example").await.unwrap(), 6);
    }
}
