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
        .map_err(|source| Error::Runtime { source })
        .and_then(|runtime| runtime.block_on(main));
    report(program, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ExitCode` shows itself in no other way.
    fn said(result: Result<(), Error>) -> String {
        format!("{:?}", report("test", result))
    }

    #[test]
    fn only_wrong_configuration_is_64() {
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        let io = || std::io::Error::other("no");
        assert_eq!(said(Ok(())), code(0));
        assert_eq!(said(Err(Error::Config(vec!["--a: b".into()]))), code(64));
        assert_eq!(said(Err(Error::Listen { address: "x".into(), source: io() })), code(1));
        assert_eq!(said(Err(Error::Runtime { source: io() })), code(1));
        assert_eq!(format!("{:?}", run("test", async { Ok(()) })), code(0));
    }
}
