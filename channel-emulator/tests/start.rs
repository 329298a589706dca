//! The binary: what it refuses to start with, and how it ends.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semlink-channel-emulator"));
    command.args(arguments).env_clear();
    command
}

fn refused(command: &mut Command, status: i32, named: &[&str]) -> Output {
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for name in named {
        assert!(said.contains(name), "{name} is not in {said}");
    }
    output
}

#[test]
fn bad_settings_are_reported_together_in_one_line() {
    let all = [
        ("--listen", "nowhere"),
        ("--next", "receiver:50053"),
        ("--snr-db", "NaN"),
        ("--channel", "fog"),
        ("--k-factor-db", "61"),
        ("--coherence", "-1"),
        ("--csi", "some"),
        ("--seed", "0x12"),
        ("--hop", "first"),
        ("--in-flight", "0"),
        ("--log", "a=b=c"),
    ];
    let arguments: Vec<&str> = all.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
    let output = refused(&mut command(&arguments), 64, &all.map(|(flag, _)| flag));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    assert!(output.stdout.is_empty());
}

#[test]
fn each_bad_setting_is_refused_with_what_is_expected() {
    let cases = [
        ("--snr-db", "-60.5", "-60"),
        ("--snr-db", "100.5", "100"),
        ("--snr-db", "", "--snr-db"),
        ("--channel", "AWGN?", "rayleigh"),
        ("--csi", "pilot", "pilots or none"),
        ("--next", "ftp://127.0.0.1:1", "http://HOST:PORT"),
        ("--listen", "50052", "HOST:PORT"),
        ("--in-flight", "1048577", "1048576"),
    ];
    for (flag, value, named) in cases {
        let next = if flag == "--next" { value } else { "http://127.0.0.1:1" };
        let mut arguments = vec!["--next", next];
        if flag != "--next" {
            arguments.extend([flag, value]);
        }
        refused(&mut command(&arguments), 64, &[flag, named]);
    }
}

/// Nobody makes files in /proc, not even root.
#[cfg(target_os = "linux")]
#[test]
fn a_directory_for_recordings_that_is_missing_or_cannot_be_written_is_refused() {
    for (directory, why) in [("/nowhere", "no such directory"), ("/proc", "cannot be written")] {
        let arguments = ["--next", "http://127.0.0.1:1", "--recordings", directory];
        let output = refused(&mut command(&arguments), 64, &["--recordings", directory, why]);
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}

#[test]
fn the_environment_is_checked_like_flags() {
    let mut command = command(&[]);
    command.env("SEMLINK_NEXT", "http://127.0.0.1:1").env("SEMLINK_SNR_DB", "loud").env("SEMLINK_LISTEN", "nowhere");
    refused(&mut command, 64, &["--snr-db", "loud", "--listen", "nowhere"]);
}

#[test]
fn wrong_usage_is_status_2() {
    refused(&mut command(&[]), 2, &["--next"]);
    refused(&mut command(&["--next", "http://127.0.0.1:1", "--no-such-flag"]), 2, &["--no-such-flag"]);
}

#[test]
fn an_address_that_is_taken_is_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    refused(&mut command(&["--listen", &address, "--next", "http://127.0.0.1:1"]), 1, &[&address]);
}

#[test]
fn sigterm_and_sigint_end_the_binary_with_status_0() {
    for signal in ["-TERM", "-INT"] {
        let arguments = ["--listen", "127.0.0.1:0", "--next", "http://127.0.0.1:1", "--log-format", "json"];
        let mut binary = Running(command(&arguments).stderr(Stdio::piped()).spawn().expect("the binary runs"));
        let mut log = BufReader::new(binary.0.stderr.take().expect("a pipe")).lines().map(|line| line.expect("text"));
        let address = log
            .find_map(|line| Some(line.split_once("\"address\":\"")?.1.split_once('"')?.0.to_owned()))
            .expect("a line with the address");
        // An answer says that it is past its start, and so listens for signals: SETTINGS for HTTP/2's preface and SETTINGS.
        let mut connection = TcpStream::connect(address).expect("a listening service");
        connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
        connection.read_exact(&mut [0; 9]).expect("an answer");
        drop(connection);
        let sent = Command::new("kill").arg(signal).arg(binary.0.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        // Read to the end, so that the binary never waits for its log to be read.
        let rest: Vec<String> = log.collect();
        assert_eq!(binary.0.wait().expect("an end").code(), Some(0), "{signal}: {rest:?}");
    }
}

/// Ends the program with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A failure: it has ended already.
        let _ = self.0.kill();
    }
}
