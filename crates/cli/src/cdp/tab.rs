//! One tab: load, look, click, evaluate, photograph.

use super::connection::{Connection, ConsoleLine, Worker, exception_text};
use super::{CLICK_TIMEOUT, COMMAND_TIMEOUT, CdpError, LOAD_TIMEOUT, POLL_INTERVAL};
use base64::Engine as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Scrolls the element into view and says where its center is, or why it cannot be clicked (yet).
pub const LOCATE: &str = r"(selector) => {
  const element = document.querySelector(selector);
  if (!element) return { why: 'no such element' };
  if (element.disabled) return { why: 'the element is disabled' };
  element.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });
  const box = element.getBoundingClientRect();
  if (box.width < 1 || box.height < 1) return { why: 'the element has no size' };
  const x = box.left + box.width / 2, y = box.top + box.height / 2;
  const top = document.elementFromPoint(x, y);
  if (!top) return { why: 'the element lies outside the window' };
  if (!(element === top || element.contains(top) || top.contains(element) && top.matches('label'))) {
    return { why: 'the element is covered by ' + top.tagName.toLowerCase() + (top.id ? '#' + top.id : '') };
  }
  return { x, y };
}";

/// A tab, in a browser context of its own but for [`Tab::beside`]. Dropping it leaves it open until the browser ends; [`Tab::close`] ends it.
pub struct Tab {
    connection: Connection,
    session: String,
    target: String,
    context: String,
}

impl Tab {
    pub(super) async fn open(connection: Connection) -> Result<Self, CdpError> {
        let context = connection.call(None, "Target.createBrowserContext", json!({})).await?;
        let context = text(&context, "browserContextId", "Target.createBrowserContext")?;
        Self::open_in(connection, context, true).await
    }

    /// Opens another tab of the same window and browser context, before this one: they share storage, as a person's tabs do.
    /// [`Tab::close`] of either ends both.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn beside(&self) -> Result<Self, CdpError> {
        Self::open_in(self.connection.clone(), self.context.clone(), false).await
    }

    async fn open_in(connection: Connection, context: String, new_window: bool) -> Result<Self, CdpError> {
        let params = json!({ "url": "about:blank", "browserContextId": context, "newWindow": new_window });
        let target = connection.call(None, "Target.createTarget", params).await?;
        let target = text(&target, "targetId", "Target.createTarget")?;
        let params = json!({ "targetId": target, "flatten": true });
        let session = connection.call(None, "Target.attachToTarget", params).await?;
        let session = text(&session, "sessionId", "Target.attachToTarget")?;
        connection.track(&session);
        let tab = Self { connection, session, target, context };
        tab.call("Page.enable", json!({})).await?;
        tab.call("Runtime.enable", json!({})).await?;
        tab.call("Log.enable", json!({})).await?;
        tab.call("Inspector.enable", json!({})).await?;
        let auto_attach = json!({ "autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true });
        tab.call("Target.setAutoAttach", auto_attach).await?;
        Ok(tab)
    }

    /// Sends any DevTools command to this tab.
    ///
    /// # Errors
    /// Chromium refuses it, does not answer within [`COMMAND_TIMEOUT`], or is gone.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, CdpError> {
        self.connection.call(Some(&self.session), method, params).await
    }

    /// Loads an address and waits for the load event.
    ///
    /// # Errors
    /// It cannot be loaded, or not within [`LOAD_TIMEOUT`].
    pub async fn goto(&self, url: &str) -> Result<(), CdpError> {
        let before = self.connection.tab(&self.session, |tab| tab.loads)?;
        let answer = self.call("Page.navigate", json!({ "url": url })).await?;
        if let Some(reason) = answer["errorText"].as_str() {
            return Err(CdpError::Load { url: url.to_owned(), reason: reason.to_owned() });
        }
        let what = format!("the load of {url}");
        self.connection.tab_until(&self.session, &what, LOAD_TIMEOUT, |tab| tab.loads > before).await
    }

    /// Evaluates an expression in the page; a promise is awaited. The value must be JSON.
    ///
    /// # Errors
    /// The script throws, or its value is not a `T`.
    pub async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> Result<T, CdpError> {
        self.evaluate_in(&self.session, expression, false).await
    }

    /// Evaluates an expression in one of the tab's workers.
    ///
    /// # Errors
    /// As [`Tab::evaluate`]; the worker may have ended.
    pub async fn evaluate_in_worker<T: DeserializeOwned>(
        &self,
        worker: &Worker,
        expression: &str,
    ) -> Result<T, CdpError> {
        self.evaluate_in(&worker.session, expression, false).await
    }

    async fn evaluate_in<T: DeserializeOwned>(
        &self,
        session: &str,
        expression: &str,
        user_gesture: bool,
    ) -> Result<T, CdpError> {
        let params = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
            "userGesture": user_gesture,
        });
        let mut answer = self.connection.call(Some(session), "Runtime.evaluate", params).await?;
        if !answer["exceptionDetails"].is_null() {
            return Err(CdpError::Script(exception_text(&answer["exceptionDetails"])));
        }
        serde_json::from_value(answer["result"]["value"].take())
            .map_err(|cause| CdpError::Answer { method: "Runtime.evaluate".into(), cause: cause.to_string() })
    }

    /// Waits until an expression is truthy, and looks every [`POLL_INTERVAL`].
    ///
    /// # Errors
    /// It is not within `limit`, or it throws.
    pub async fn wait_for(&self, expression: &str, limit: Duration) -> Result<(), CdpError> {
        let started = Instant::now();
        let wrapped =
            format!("(async () => {{ const v = await ({expression}); return [!!v, String(v)]; }})()");
        loop {
            let (ready, seen): (bool, String) = self.evaluate(&wrapped).await?;
            if ready {
                return Ok(());
            }
            self.alive()?;
            if started.elapsed() > limit {
                return Err(CdpError::Timeout { what: expression.to_owned(), limit, last: seen });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn alive(&self) -> Result<(), CdpError> {
        if self.connection.tab(&self.session, |tab| tab.crashed)? { Err(CdpError::Crashed) } else { Ok(()) }
    }

    /// Clicks the center of the element that `selector` names, as a mouse does: the event is trusted. Waits until the
    /// element exists, is enabled, lies at rest and is not covered.
    ///
    /// # Errors
    /// That does not happen within [`CLICK_TIMEOUT`]; the error says what was in the way.
    pub async fn click(&self, selector: &str) -> Result<(), CdpError> {
        let quoted = Value::from(selector).to_string();
        let locate = format!("({LOCATE})({quoted})");
        let started = Instant::now();
        let mut previous = None;
        let (x, y) = loop {
            let place: Value = self.evaluate(&locate).await?;
            let found = place["x"].as_f64().zip(place["y"].as_f64());
            // A moving element is clicked only after it was seen twice at the same place.
            match found {
                Some(point) if previous == Some(point) => break point,
                _ => previous = found,
            }
            self.alive()?;
            if started.elapsed() > CLICK_TIMEOUT {
                let last = place["why"].as_str().unwrap_or("the element keeps moving").to_owned();
                let what = format!("a click on {selector}");
                return Err(CdpError::Timeout { what, limit: CLICK_TIMEOUT, last });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let params = json!({
                "type": kind, "x": x, "y": y, "button": button, "buttons": buttons,
                "clickCount": i32::from(kind != "mouseMoved"), "pointerType": "mouse",
            });
            self.call("Input.dispatchMouseEvent", params).await?;
        }
        Ok(())
    }

    /// Presses and releases a key by its DOM name (`Tab`, `Enter`, `Escape`, ` `, `a`).
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn press(&self, key: &str) -> Result<(), CdpError> {
        let (code, number, character) = match key {
            "Enter" => ("Enter", 13, Some("\r")),
            "Tab" => ("Tab", 9, None),
            "Escape" => ("Escape", 27, None),
            " " => ("Space", 32, Some(" ")),
            other => ("", 0, Some(other)),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params =
                json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number });
            if let (Some(character), "keyDown") = (character, kind) {
                params["text"] = character.into();
            }
            self.call("Input.dispatchKeyEvent", params).await?;
        }
        Ok(())
    }

    /// Runs a script in every page that this tab loads from now on, before the page's own scripts.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn inject_into_pages(&self, script: &str) -> Result<(), CdpError> {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await.map(drop)
    }

    /// Runs a script in every worker that this tab starts from now on, before the worker's own scripts.
    ///
    /// # Errors
    /// The tab was closed.
    pub fn inject_into_workers(&self, script: &str) -> Result<(), CdpError> {
        self.connection.tab(&self.session, |tab| tab.worker_scripts.push(script.to_owned()))
    }

    /// The workers that this tab started, the newest last. Some may have ended.
    pub fn workers(&self) -> Vec<Worker> {
        self.connection.tab(&self.session, |tab| tab.workers.iter().cloned().collect()).unwrap_or_default()
    }

    /// Waits until the tab has started a worker.
    ///
    /// # Errors
    /// None within [`COMMAND_TIMEOUT`].
    pub async fn wait_for_worker(&self) -> Result<Worker, CdpError> {
        let any = |tab: &super::connection::TabState| !tab.workers.is_empty();
        self.connection.tab_until(&self.session, "the start of a worker", COMMAND_TIMEOUT, any).await?;
        self.workers().pop().ok_or(CdpError::Crashed)
    }

    /// What the page and its workers wrote to the console so far, uncaught errors included.
    pub fn console(&self) -> Vec<ConsoleLine> {
        self.connection.tab(&self.session, |tab| tab.console.iter().cloned().collect()).unwrap_or_default()
    }

    /// A picture of what the window shows, as PNG.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn screenshot(&self) -> Result<Vec<u8>, CdpError> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" })).await?;
        let data = text(&answer, "data", "Page.captureScreenshot")?;
        base64::engine::general_purpose::STANDARD.decode(data).map_err(|cause| CdpError::Answer {
            method: "Page.captureScreenshot".into(),
            cause: cause.to_string(),
        })
    }

    /// Sets media features, such as `("prefers-color-scheme", "dark")` or `("prefers-reduced-motion", "reduce")`.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn emulate_media(&self, features: &[(&str, &str)]) -> Result<(), CdpError> {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await.map(drop)
    }

    /// Sets the window's size in CSS pixels and the device pixels of each.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn set_viewport(&self, width: u32, height: u32, scale: f64) -> Result<(), CdpError> {
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", params).await.map(drop)
    }

    /// Closes the tab and its context. Workers end with it.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn close(self) -> Result<(), CdpError> {
        self.connection.forget(&self.session);
        self.connection.call(None, "Target.closeTarget", json!({ "targetId": self.target })).await?;
        let context = json!({ "browserContextId": self.context });
        self.connection.call(None, "Target.disposeBrowserContext", context).await.map(drop)
    }
}

fn text(answer: &Value, key: &str, method: &str) -> Result<String, CdpError> {
    answer[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| CdpError::Answer { method: method.to_owned(), cause: format!("it has no {key}") })
}
