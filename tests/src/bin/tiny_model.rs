//! `cargo xtask tiny-model`: writes the seeded, untrained model folder that the tests use.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: tiny-model FOLDER");
        return ExitCode::from(2);
    };
    match models::zoo::write_tiny_model(folder.as_ref()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
