//! In a browser's Worker: the engine on WebGPU against losses from a processor.

#[path = "../../burn/tests/digits/vector.rs"]
mod vector;

use crate::BurnEngine;
use potluck_train::digits;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

fn message(error: impl Into<JsValue>) -> String {
    let error: JsValue = error.into();
    error.unchecked_into::<js_sys::Error>().message().into()
}

#[wasm_bindgen_test]
async fn steps_have_the_losses_of_a_processor() {
    let engine = match BurnEngine::create("digits".into()).await {
        Ok(engine) => engine,
        Err(error) => {
            let reason = message(error);
            assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "{reason}");
            console_log!("skipped: {reason}");
            return;
        }
    };
    let start = digits::init(&vector::SEED);
    assert_eq!(engine.parameters(), start.len());
    engine.load(start.clone()).await.map_err(message).unwrap();
    assert_eq!(engine.store().await.map_err(message).unwrap(), start);
    for (step, expected) in vector::LOSSES.into_iter().enumerate() {
        let batch = vector::batch(step);
        let (rows, length) = (batch.sequences, batch.length);
        let begun = js_sys::Date::now();
        let before = if step == 1 {
            let loss = engine.loss(batch.inputs.clone(), batch.targets.clone(), rows, length).await;
            Some(loss.map_err(message).unwrap())
        } else {
            None
        };
        let middle = js_sys::Date::now();
        let loss = engine.step(batch.inputs, batch.targets, rows, length, vector::RATE).await;
        let loss = loss.map_err(message).unwrap();
        console_log!(
            "step {step}: loss {loss}, expected {expected}; {} ms (loss alone {} ms)",
            js_sys::Date::now() - middle,
            middle - begun
        );
        assert!((loss - expected).abs() < 1e-3, "step {step}: {loss} {expected}");
        assert!(before.is_none_or(|before| (before - loss).abs() < 1e-4), "{before:?} {loss}");
    }
    assert_ne!(engine.store().await.map_err(message).unwrap(), start);
    let short = engine.loss(vec![0; 64], vec![0; 63], 1, 64).await.map_err(message).unwrap_err();
    assert!(short.contains("as many targets"), "{short}");
}

#[wasm_bindgen_test]
async fn a_model_that_is_not_there_is_refused() {
    let error = message(BurnEngine::create("letters".into()).await.err().unwrap());
    assert!(error.contains("letters") && error.contains("digits"), "{error}");
}
