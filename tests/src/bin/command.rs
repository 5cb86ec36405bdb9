//! The `potluck` command, built with the tests: suites that start processes start the code at hand, with the features
//! at hand, and need no other build.

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = potluck_cli::args::Cli::parse();
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
