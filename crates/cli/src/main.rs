//! The `potluck` command.

use clap::Parser as _;
use potluck_cli::args::Cli;
use std::process::ExitCode;

/// What a shell reports of a program that wrote into a closed pipe.
const BROKEN_PIPE: i32 = 128 + 13;

/// `potluck jobs | head -1`: whoever reads has enough. That is no reason for a backtrace.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.contains("Broken pipe")) {
            std::process::exit(BROKEN_PIPE);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    let cli = Cli::parse();
    match potluck_cli::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if potluck_cli::wants_json(&cli) {
                println!("{}", error.to_json());
            }
            eprintln!("{}", error.lines());
            ExitCode::from(error.exit() as u8)
        }
    }
}
