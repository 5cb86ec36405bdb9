//! Matrices on their way in: to disk while they stream, then cut into panels.

use crate::api::ApiError;
use crate::blobs::Panel;
use crate::db::{JobRow, JobState};
use crate::http::App;
use crate::ingest::{IngestError, Pair, Panels, Side};
use crate::npy;
use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use potluck_schedule::JobSpec;
use potluck_types::limits::MAX_MATRIX_BYTES;
use potluck_types::{BlobHash, DType, JobId};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// A client that sends nothing for so long is given up.
const STALLED: Duration = Duration::from_mins(1);
/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// A file on disk, not yet under its name.
pub(crate) struct Received {
    pub(crate) hash: BlobHash,
    pub(crate) bytes: u64,
    pub(crate) path: tempfile::TempPath,
}

/// Writes an upload to a folder; it is on disk when this returns.
pub(crate) async fn to_disk(
    folder: &Path,
    body: Body,
    most: u64,
    too_large: impl Fn() -> ApiError,
) -> Result<Received, ApiError> {
    // A length that is announced and too large is refused before a byte of it is read.
    if body.size_hint().lower() > most {
        return Err(too_large());
    }
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(ApiError::internal)?;
    let (file, path) = temporary.into_parts();
    let mut file = tokio::io::BufWriter::with_capacity(WRITE_BYTES, tokio::fs::File::from_std(file));
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    let mut stream = body.into_data_stream();
    loop {
        let chunk = match tokio::time::timeout(STALLED, stream.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => {
                return Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "upload_broken",
                    "the upload ended early",
                    "send the file again",
                ));
            }
        };
        bytes += chunk.len() as u64;
        if bytes > most {
            return Err(too_large());
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    file.flush().await.map_err(ApiError::internal)?;
    let file = file.into_inner();
    // A job that was accepted must find its inputs after a power cut.
    file.sync_data().await.map_err(ApiError::internal)?;
    Ok(Received { hash: BlobHash(*hasher.finalize().as_bytes()), bytes, path })
}

/// Writes an upload to disk and checks that it is a matrix.
pub(crate) async fn receive(app: &App, body: Body) -> Result<(BlobHash, npy::Header, u64), ApiError> {
    let folder = app.config.data.join("matrices");
    let Received { hash, bytes, path } = to_disk(&folder, body, MAX_MATRIX_BYTES, too_large).await?;
    let target = app.matrix_path(&hash);
    let header = tokio::task::spawn_blocking(move || {
        let reader = std::fs::File::open(&path).map_err(ApiError::internal)?;
        let header = npy::read_header(&mut std::io::BufReader::new(reader), bytes)
            .map_err(|cause| ApiError::from(IngestError::Npy { side: Side::A, cause }).without_side())?;
        path.persist(&target).map_err(ApiError::internal)?;
        Ok::<_, ApiError>(header)
    });
    let header = header.await.map_err(ApiError::internal)??;
    app.blobs.share(&app.config.data, &app.matrix_path(&hash)).await.map_err(ApiError::internal)?;
    Ok((hash, header, bytes))
}

fn too_large() -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("a matrix may have {MAX_MATRIX_BYTES} bytes"),
        "split it and submit several jobs",
    )
}

/// A job before its matrices were looked at.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) a: BlobHash,
    pub(crate) b: BlobHash,
    pub(crate) transpose_b: bool,
    pub(crate) created_ms: i64,
}

/// Checks a job's matrices and cuts them into panels. Those in memory stay for as long as they are held.
pub(crate) async fn cut(app: &App, draft: Draft) -> Result<(JobRow, JobSpec, Vec<Arc<Panel>>), ApiError> {
    let _slot = app.ingests.acquire().await.map_err(ApiError::internal)?;
    let (a, b) = (app.matrix_path(&draft.a), app.matrix_path(&draft.b));
    let blobs = app.blobs.clone();
    let handle = tokio::runtime::Handle::current();
    let (dtype, transpose_b) = (draft.dtype, draft.transpose_b);
    let work = tokio::task::spawn_blocking(move || {
        let pair = Pair::open(&a, &b, transpose_b, dtype)?;
        let (shape, grid) = (pair.shape, pair.grid);
        Ok::<_, IngestError>((shape, grid, pair.cut(&blobs, &handle, transpose_b)?))
    });
    let (shape, grid, Panels { panels, held }) = work.await.map_err(ApiError::internal)??;
    let row = JobRow {
        id: draft.id,
        name: draft.name,
        state: JobState::Running,
        dtype,
        shape,
        a: draft.a,
        b: draft.b,
        transpose_b,
        created_ms: draft.created_ms,
        ended_ms: None,
    };
    let spec = row.spec(grid, panels);
    Ok((row, spec, held))
}
