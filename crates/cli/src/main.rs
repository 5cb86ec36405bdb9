//! The `potluck` command.

use clap::Parser as _;
use potluck_cli::args::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
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
