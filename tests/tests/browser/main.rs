//! Suites in real browsers, one browser after the other: one program, for linking them one by one takes minutes.

mod cycle;
mod firefox;
mod model_page;
mod moving;
mod package;
mod screens;
mod states;
mod tabs;
#[cfg(feature = "burn")]
mod tabs_digits;
mod tabs_train;
mod trust;
mod widget;
