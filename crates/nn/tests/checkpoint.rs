//! Files: round trip, determinism, atomicity, and bytes that are not a checkpoint.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use semlink_nn::{Error, checkpoint};

fn example() -> (BTreeMap<String, Tensor>, BTreeMap<String, String>) {
    let t = |dtype| Tensor::new(&[[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let tensors = [
        ("u8".to_owned(), t(DType::U8)),
        ("f32.transposed".to_owned(), t(DType::F32).t().unwrap()),
        ("f16".to_owned(), t(DType::F16)),
        ("bf16".to_owned(), t(DType::BF16)),
        ("f64".to_owned(), t(DType::F64)),
        ("i64.scalar".to_owned(), Tensor::new(-7i64, &Device::Cpu).unwrap()),
        ("u32".to_owned(), t(DType::U32)),
    ];
    let text = (0..20).map(|i| (format!("key {i}"), format!("value \"{i}\" \u{e9}")));
    (tensors.into(), text.collect())
}

#[test]
fn round_trip_keeps_everything_and_bytes_are_reproducible() {
    let (tensors, text) = example();
    let bytes = checkpoint::to_bytes(&tensors, &text).unwrap();
    assert_eq!(bytes, checkpoint::to_bytes(&tensors, &text).unwrap());
    let back = checkpoint::from_bytes(&bytes, &Device::Cpu).unwrap();
    assert_eq!(back.metadata, text);
    assert_eq!(back.tensors.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
    for (name, t) in &tensors {
        let found = &back.tensors[name];
        assert_eq!((found.dtype(), found.dims()), (t.dtype(), t.dims()), "{name}");
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(wide(found), wide(t), "{name}");
    }
    // The public crate reads the same file, as any other program would.
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("f32.transposed").unwrap().shape(), [3, 2]);
}

#[test]
fn a_file_is_replaced_whole_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let (tensors, text) = example();
    checkpoint::save(&path, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    checkpoint::save(&path, &tensors, &text).unwrap();
    assert_eq!(checkpoint::load(&path, &Device::Cpu).unwrap().tensors.len(), tensors.len());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // A failed write leaves no temporary file behind: the target is a folder.
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    assert!(matches!(checkpoint::save(&folder, &tensors, &text), Err(Error::Io { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn bad_bytes_are_errors_that_name_the_file() {
    let (tensors, text) = example();
    let good = checkpoint::to_bytes(&tensors, &text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.safetensors");
    let fails = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let e = checkpoint::load(&path, &Device::Cpu).expect_err(what).to_string();
        assert!(e.contains("bad.safetensors"), "{what}: {e}");
    };
    fails(&[], "empty");
    fails(b"not a checkpoint at all", "text");
    fails(&good[..good.len() - 1], "truncated data");
    fails(&good[..20], "truncated header");
    fails(&[&good[..], b"x"].concat(), "trailing bytes");
    fails(&[&u64::MAX.to_le_bytes()[..], &good[8..]].concat(), "huge header");
    assert!(matches!(checkpoint::load(&dir.path().join("none"), &Device::Cpu), Err(Error::Io { .. })));
}

/// Each single flipped bit is either refused or yields tensors; none may panic.
#[test]
fn no_flipped_bit_panics() {
    let small = BTreeMap::from([("w".to_owned(), Tensor::new(&[1.0f32, 2.0], &Device::Cpu).unwrap())]);
    let good = checkpoint::to_bytes(&small, &BTreeMap::new()).unwrap();
    for i in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[i / 8] ^= 1 << (i % 8);
        let _ = checkpoint::from_bytes(&bad, &Device::Cpu);
    }
}
