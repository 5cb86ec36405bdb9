//! The widget's frame in a tab, as a person and as a test see it.

use potluck_cli::cdp::{CdpError, POLL_INTERVAL, Tab};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Where the frame lies in the window, and where an element lies in the frame.
const PLACE: &str = "(() => {
  const frame = document.querySelector('potluck-widget')?.shadowRoot?.querySelector('iframe') ?? document.querySelector('iframe');
  const box = frame?.getBoundingClientRect();
  return box ? [box.left, box.top] : null;
})()";

/// The center of the card's button in its page.
const CARD: &str = "(() => {
  const widget = document.querySelector('potluck-widget');
  const box = (widget?.shadowRoot?.querySelector('button') ?? widget?.querySelector('button'))?.getBoundingClientRect();
  return box?.width ? [box.left + box.width / 2, box.top + box.height / 2] : null;
})()";

/// A frame of a tab whose address has some text in it. Its state is asked in a world of the test's own: what scripts of the
/// frame see is not touched.
pub struct Frame<'a> {
    /// The tab.
    pub tab: &'a Tab,
    address: &'static str,
    /// Text of the address of the frame around it, if that is not the page.
    around: Option<&'static str>,
}

impl<'a> Frame<'a> {
    /// The widget's frame.
    pub const fn widget(tab: &'a Tab) -> Self {
        Self { tab, address: "/widget.html", around: None }
    }

    /// The widget's frame in another frame of the page.
    pub const fn nested(tab: &'a Tab, around: &'static str) -> Self {
        Self { tab, address: "/widget.html", around: Some(around) }
    }

    /// The id of the frame, if it is there.
    async fn id(&self) -> Option<String> {
        fn find(tree: &Value, address: &str) -> Option<String> {
            if tree["frame"]["url"].as_str().is_some_and(|url| url.contains(address)) {
                return tree["frame"]["id"].as_str().map(str::to_owned);
            }
            tree["childFrames"].as_array()?.iter().find_map(|child| find(child, address))
        }
        let tree = self.tab.call("Page.getFrameTree", json!({})).await.expect("a tab");
        find(&tree["frameTree"], self.address)
    }

    /// Evaluates an expression in the frame.
    ///
    /// # Errors
    /// There is no such frame, or the script throws.
    pub async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> Result<T, CdpError> {
        let missing = || CdpError::Page(format!("there is no frame of {}", self.address));
        let id = self.id().await.ok_or_else(missing)?;
        let world = json!({ "frameId": id, "worldName": "test" });
        let world = self.tab.call("Page.createIsolatedWorld", world).await?;
        let asked = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
            "contextId": world["executionContextId"],
        });
        let mut answer = self.tab.call("Runtime.evaluate", asked).await?;
        if !answer["exceptionDetails"].is_null() {
            return Err(CdpError::Script(answer["exceptionDetails"].to_string()));
        }
        serde_json::from_value(answer["result"]["value"].take())
            .map_err(|cause| CdpError::Answer { method: "Runtime.evaluate".into(), cause: cause.to_string() })
    }

    /// Waits until an expression is true in the frame.
    ///
    /// # Panics
    /// It is not within `limit`: with what the frame shows.
    pub async fn until(&self, expression: &str, limit: Duration) {
        let started = Instant::now();
        loop {
            let found = self.evaluate::<bool>(&format!("Boolean({expression})")).await;
            if matches!(found, Ok(true)) {
                return;
            }
            if started.elapsed() > limit {
                let shown = self.evaluate::<String>("document.body.innerText").await;
                panic!("{expression}: {found:?}\n{shown:?}\n{:?}", self.tab.console());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Presses the card that stands where the frame comes; where a page shows the frame without a card, the frame's own button.
    ///
    /// # Panics
    /// There is neither within `limit`.
    pub async fn press(&self, limit: Duration) {
        let started = Instant::now();
        loop {
            let around = self.around.map(|address| Frame { tab: self.tab, address, around: None });
            let [mut x, mut y] = match &around {
                Some(_) => {
                    self.tab.evaluate::<Option<[f64; 2]>>(PLACE).await.ok().flatten().unwrap_or_default()
                }
                None => [0.0; 2],
            };
            let card: Option<[f64; 2]> = match &around {
                Some(frame) => frame.evaluate(CARD).await.unwrap_or_default(),
                None => self.tab.evaluate(CARD).await.unwrap_or_default(),
            };
            if let Some([left, top]) = card {
                (x, y) = (x + left, y + top);
                return click_at(self.tab, x, y).await;
            }
            if matches!(self.evaluate::<bool>("document.body.dataset.told === 'idle'").await, Ok(true)) {
                return self.click("#lend").await;
            }
            assert!(started.elapsed() < limit, "there is no card: {:?}", self.tab.console());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The frame's state.
    pub async fn state(&self) -> String {
        self.evaluate("document.body.dataset.state").await.unwrap_or_default()
    }

    /// Why the last click did not count, if it did not.
    pub async fn refused(&self) -> String {
        self.evaluate("document.body.dataset.refused ?? ''").await.unwrap_or_default()
    }

    /// The center of an element in the window.
    ///
    /// # Panics
    /// It is not there.
    pub async fn place(&self, selector: &str) -> (f64, f64) {
        let inner = format!(
            "(() => {{ const box = document.querySelector({selector:?})?.getBoundingClientRect();
               return box?.width ? [box.left + box.width / 2, box.top + box.height / 2] : null; }})()"
        );
        let started = Instant::now();
        let mut last = None;
        loop {
            let mut parts: Vec<Option<[f64; 2]>> = vec![self.tab.evaluate(PLACE).await.expect("a page")];
            if let Some(address) = self.around {
                let around = Frame { tab: self.tab, address, around: None };
                parts.push(around.evaluate(PLACE).await.unwrap_or_default());
            }
            parts.push(self.evaluate(&inner).await.unwrap_or_default());
            let found = parts
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .map(|parts| parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part[0], sum.1 + part[1])));
            // At rest, the frame's size included.
            if let Some(point) = found.filter(|_| found == last) {
                return point;
            }
            last = found;
            assert!(started.elapsed() < Duration::from_secs(20), "there is no {selector}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Clicks an element as a mouse does, wherever it lies.
    pub async fn click(&self, selector: &str) {
        let (x, y) = self.place(selector).await;
        click_at(self.tab, x, y).await;
    }
}

/// Moves the mouse.
///
/// # Panics
/// Chromium is gone.
pub async fn point_at(tab: &Tab, x: f64, y: f64) {
    let moved = json!({ "type": "mouseMoved", "x": x, "y": y, "button": "none", "pointerType": "mouse" });
    tab.call("Input.dispatchMouseEvent", moved).await.expect("a tab");
}

/// Moves the mouse and clicks.
///
/// # Panics
/// Chromium is gone.
pub async fn click_at(tab: &Tab, x: f64, y: f64) {
    point_at(tab, x, y).await;
    for (kind, buttons) in [("mousePressed", 1), ("mouseReleased", 0)] {
        let event = json!({
            "type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1, "pointerType": "mouse",
        });
        tab.call("Input.dispatchMouseEvent", event).await.expect("a tab");
    }
}
