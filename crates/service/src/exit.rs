//! Exit status: 0 done, 2 wrong usage (clap), 64 wrong configuration, 1 anything else.

use std::process::ExitCode;

use crate::Error;

/// Wrong configuration, `EX_USAGE` of BSD's sysexits.
pub const CONFIG: u8 = 64;

/// Turns a program's result into its exit status; an error becomes one line on standard error.
pub fn report(program: &str, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(if matches!(error, Error::Config(_)) { CONFIG } else { 1 })
        }
    }
}

/// Runs a service's future on a multi-threaded runtime and reports its result.
pub fn run(program: &str, main: impl Future<Output = Result<(), Error>>) -> ExitCode {
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Config(vec![format!("cannot start the runtime: {source}")]))
        .and_then(|runtime| runtime.block_on(main));
    report(program, result)
}
