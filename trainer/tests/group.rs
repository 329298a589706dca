//! Groups of processes over TCP, here one thread for each, and what happens when one is lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use semlink_trainer::Error;
use semlink_trainer::group::{Alone, Group, Patience, Rendezvous, Tcp};
use semlink_trainer::testing::together;

/// Long enough for a busy machine, where nothing is expected to be lost.
const PATIENT: Patience = Patience { join: Duration::from_secs(60), silence: Duration::from_secs(60) };
/// Short, where somebody is.
const SHORT: Patience = Patience { join: Duration::from_secs(60), silence: Duration::from_millis(400) };

fn rendezvous() -> (Rendezvous, String) {
    let rendezvous = Rendezvous::bind("127.0.0.1:0").unwrap();
    let address = rendezvous.address().to_string();
    (rendezvous, address)
}

/// No process of this host ends while others join.
fn nobody(_: Duration) -> Option<Error> {
    thread::yield_now();
    None
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn every_process_gets_the_same_bits_of_a_sum_in_the_order_of_ranks() {
    // In f32 the order of these tells: (1 + 1e8) - 1e8 = 0, 1 + (1e8 - 1e8) = 1.
    let values = [[1.0f32, 0.1, -0.0], [1e8, 0.2, -0.0], [-1e8, 0.3, -0.0]];
    let sums = together(3, PATIENT, |group| {
        let mut found = Vec::new();
        for _ in 0..3 {
            found.push(group.all_reduce_sum(&vector(&values[group.rank()])).unwrap().to_vec1::<f32>().unwrap());
        }
        found
    });
    let expected = [(1.0f32 + 1e8) - 1e8, (0.1f32 + 0.2) + 0.3, -0.0].map(f32::to_bits);
    assert_eq!(expected[0], 0.0f32.to_bits());
    for sum in sums.iter().flatten() {
        assert_eq!(sum.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn means_are_weighted_by_shares_and_what_process_0_says_reaches_all() {
    let found = together(3, PATIENT, |group| {
        assert_eq!((group.size(), group.leads()), (3, group.rank() == 0));
        let share = [0.5, 0.25, 0.25][group.rank()];
        let mean = group.all_reduce_mean(&vector(&[[4.0, 8.0, 16.0][group.rank()]]), share).unwrap();
        let said = group.broadcast(vec![group.rank() as u8 + 7; 3]).unwrap();
        group.barrier().unwrap();
        (mean.to_vec1::<f32>().unwrap(), said)
    });
    // 4 / 2 + 8 / 4 + 16 / 4.
    assert_eq!(found, vec![(vec![8.0], vec![7; 3]); 3]);
    assert_eq!(Alone.all_reduce_mean(&vector(&[3.0]), 1.0).unwrap().to_vec1::<f32>().unwrap(), [3.0]);
}

#[test]
fn nobody_passes_a_barrier_before_all_have_come() {
    let come = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    together(4, PATIENT, |group| {
        for round in 1..=20 {
            come.fetch_add(1, order);
            group.barrier().unwrap();
            assert!(come.load(order) >= 4 * round);
        }
    });
}

/// Joins as process 1 of 2 by hand, and is welcomed.
fn join_by_hand(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut hello = vec![1u8];
    hello.extend(16u64.to_le_bytes());
    hello.extend(b"semlink1");
    hello.extend(2u32.to_le_bytes());
    hello.extend(1u32.to_le_bytes());
    stream.write_all(&hello).unwrap();
    let mut welcome = [0; 9];
    stream.read_exact(&mut welcome).unwrap();
    assert_eq!(welcome, [2, 0, 0, 0, 0, 0, 0, 0, 0]);
    stream
}

#[test]
fn a_process_that_dies_or_falls_silent_is_named_in_time() {
    for (silent, expected) in [(false, "its connection closed"), (true, "no sign of life for 0.4 s")] {
        let (rendezvous, address) = rendezvous();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let peer = thread::spawn(move || {
            let stream = join_by_hand(&address);
            if silent {
                // The connection stays open, as that of a host without power does.
                let _ = wait.recv();
            }
            drop(stream);
        });
        let group = rendezvous.gather(2, SHORT, nobody).unwrap();
        let started = Instant::now();
        let error = group.all_reduce_sum(&vector(&[1.0])).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        drop(done);
        peer.join().unwrap();
        let text = error.to_string();
        assert!(matches!(error, Error::PeerLost { rank: 1, .. }), "{error:?}");
        assert!(text.contains("process 1 was lost") && text.contains(expected) && text.contains("--resume"), "{text}");
        // It stays lost.
        assert!(matches!(group.barrier(), Err(Error::PeerLost { rank: 1, .. })));
    }
}

#[test]
fn a_process_that_computes_for_long_is_not_lost() {
    let silence = Duration::from_millis(400);
    let sums = together(2, Patience { silence, ..SHORT }, |group| {
        let started = Instant::now();
        while group.rank() == 1 && started.elapsed() < 4 * silence {
            std::hint::spin_loop();
        }
        group.all_reduce_sum(&vector(&[1.0])).unwrap().to_vec1::<f32>().unwrap()
    });
    assert_eq!(sums, [[2.0], [2.0]]);
}

#[test]
fn all_others_hear_why_one_gives_up_and_that_one_has_left() {
    let reasons = together(3, PATIENT, |group| {
        if group.rank() == 2 {
            group.abandon(&Error::Split("the disk is\nfull".into()));
            return String::new();
        }
        let error = group.barrier().unwrap_err();
        // Process 1 hears of it through process 0.
        group.abandon(&error);
        error.to_string()
    });
    assert_eq!(reasons, ["process 2: the disk is full", "process 2: the disk is full", ""]);

    let errors = together(2, PATIENT, |group| if group.rank() == 0 { None } else { group.barrier().err() });
    assert!(matches!(&errors[1], Some(Error::PeerLost { rank: 0, what }) if what.contains("before the others")));
}

#[test]
fn calls_that_do_not_match_are_an_error_and_no_wrong_sum() {
    let errors = together(2, PATIENT, |group| {
        let error = match group.rank() {
            0 => group.all_reduce_sum(&vector(&[1.0, 2.0])).unwrap_err(),
            _ => match group.all_reduce_sum(&vector(&[1.0])) {
                Err(error) => error,
                Ok(_) => panic!("a sum of vectors of two lengths"),
            },
        };
        group.abandon(&error);
        error.to_string()
    });
    assert!(errors[0].contains("out of step") && errors[1].contains("out of step"), "{errors:?}");
    let error = together(2, PATIENT, |group| match group.rank() {
        0 => group.all_reduce_sum(&vector(&[1.0])).err().map(|e| e.to_string()),
        _ => group.barrier().err().map(|e| e.to_string()),
    });
    assert!(error[0].as_ref().is_some_and(|text| text.contains("sent Barrier where Sum was expected")), "{error:?}");
}

#[test]
fn strangers_and_wrong_numbers_do_not_keep_the_others_from_meeting() {
    let (rendezvous, address) = rendezvous();
    let joining = {
        let address = address.clone();
        thread::spawn(move || {
            let mut stranger = TcpStream::connect(&address).unwrap();
            stranger.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            // Closed without a word, perhaps with a reset.
            let _ = stranger.read_to_end(&mut answer);
            assert_eq!(answer, b"");
            let fails = |rank, size| Tcp::join(&address, rank, size, PATIENT).unwrap_err().to_string();
            assert!(fails(1, 3).contains("--world-size is 3 for process 1, but 2 for process 0"));
            assert!(fails(2, 2).contains("--rank 2: expected 1 to 1"));
            Tcp::join(&address, 1, 2, PATIENT).unwrap().barrier().unwrap();
        })
    };
    rendezvous.gather(2, PATIENT, nobody).unwrap().barrier().unwrap();
    joining.join().unwrap();
}

#[test]
fn who_does_not_come_is_named_and_nobody_waits_for_ever() {
    let patience = Patience { join: Duration::from_millis(300), silence: Duration::from_secs(60) };
    let (meeting, address) = rendezvous();
    let other = thread::spawn(move || Tcp::join(&address, 2, 4, PATIENT).unwrap_err().to_string());
    let text = meeting.gather(4, patience, nobody).unwrap_err().to_string();
    assert!(text.contains("process 1, 3 of 4 did not come within 0.3 s") || text.contains("process 1, 2, 3"), "{text}");
    let heard = other.join().unwrap();
    assert!(heard.contains("did not come") || heard.contains("not reached") || heard.contains("closed"), "{heard}");

    // Nobody listens on port 1; a name without a port is none.
    let text = Tcp::join("127.0.0.1:1", 1, 2, patience).unwrap_err().to_string();
    assert!(text.contains("process 1, rendezvous 127.0.0.1:1: not reached within 0.3 s"), "{text}");
    let text = Rendezvous::bind("nowhere").unwrap_err().to_string();
    assert!(text.contains("rendezvous nowhere") && text.contains("HOST:PORT"), "{text}");

    // One that ends instead of joining is not waited for.
    let (meeting, _) = rendezvous();
    let mut ended = |_| Some(Error::PeerFailed { rank: 1, what: "GPU 1: no such GPU".into() });
    let text = meeting.gather(2, PATIENT, &mut ended).unwrap_err().to_string();
    assert_eq!(text, "process 1: GPU 1: no such GPU");
}

#[test]
fn a_length_that_cannot_be_is_refused_before_anything_is_allocated() {
    let (rendezvous, address) = rendezvous();
    let address: SocketAddr = address.parse().unwrap();
    let joining = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut hello = vec![1u8];
        hello.extend(u64::MAX.to_le_bytes());
        stream.write_all(&hello).unwrap();
        let _ = stream.read(&mut [0]);
        Tcp::join(&address.to_string(), 1, 2, PATIENT).unwrap().barrier().unwrap();
    });
    rendezvous.gather(2, PATIENT, nobody).unwrap().barrier().unwrap();
    joining.join().unwrap();
}
