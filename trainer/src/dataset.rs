//! Fashion-MNIST's files: fetching them, and the small sample that is shipped.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use semlink_codec::images::Part;
use semlink_nn::checkpoint::write_atomically;
use sha2::{Digest, Sha256};

use crate::data::to_hex;
use crate::{Error, Result, source};

/// Where the authors of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) keep its files.
pub const ADDRESS: &str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com";

/// The files, and the SHA-256 of what is in them: that of the gzip file differs with who packed it.
const FILES: [(&str, &str); 4] = [
    ("train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    ("train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ("t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    ("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
];

/// The largest file has 26 MB packed and 47 MB unpacked.
const MAX_BYTES: u64 = 64 << 20;

/// Test images that are shipped.
pub const SAMPLE: usize = 1000;

/// Downloads the four files into `out`, unless they are there already; each appears only once its content is right.
///
/// # Errors
/// The server cannot be reached or refuses, a file's content is not that of Fashion-MNIST, the folder takes no files.
pub fn fetch(address: &str, out: &Path) -> Result<()> {
    fetch_files(address, out, &FILES)
}

fn fetch_files(address: &str, out: &Path, files: &[(&str, &str)]) -> Result<()> {
    fs::create_dir_all(out).map_err(|source| Error::Io { path: out.to_owned(), source })?;
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(30))).build().into();
    for (name, expected) in files {
        let path = out.join(name);
        if fs::read(&path).is_ok_and(|bytes| content_hash(&bytes).as_deref() == Some(*expected)) {
            eprintln!("{} is there already", path.display());
            continue;
        }
        let url = format!("{}/{name}", address.trim_end_matches('/'));
        let failed = |what: String| Error::Fetch { url: url.clone(), what };
        let mut response = agent.get(&url).call().map_err(|e| failed(e.to_string()))?;
        let body = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
        let bytes = body.map_err(|e| failed(e.to_string()))?;
        match content_hash(&bytes) {
            Some(found) if found == *expected => {}
            Some(found) => return Err(failed(format!("its content has SHA-256 {found}, expected {expected}"))),
            None => return Err(failed("not a gzip file".into())),
        }
        write_atomically(&path, &bytes)?;
        eprintln!("{} fetched, {} bytes, checksum right", path.display(), bytes.len());
    }
    Ok(())
}

/// SHA-256 of what a gzip file holds; `None` if it is none.
fn content_hash(gz: &[u8]) -> Option<String> {
    let mut content = Vec::new();
    GzDecoder::new(gz).take(MAX_BYTES).read_to_end(&mut content).ok()?;
    Some(to_hex(&Sha256::digest(&content)))
}

/// Writes the first [`SAMPLE`] test images and labels of the files in `data` into `out`, as gzipped IDX files with the names of the whole
/// set. The same images give the same bytes. Nothing is trained or chosen on them; they are there to be sent.
///
/// # Errors
/// The files cannot be read, or the folder takes none.
pub fn sample(data: &Path, out: &Path) -> Result<()> {
    let all = source::read_idx(data, Part::Test, 256)?;
    let count = SAMPLE.min(all.len());
    let size = all.height * all.width;
    fs::create_dir_all(out).map_err(|source| Error::Io { path: out.to_owned(), source })?;
    let [_, _, (images, _), (labels, _)] = FILES;
    write_idx(&out.join(images), &[count, all.height, all.width], &all.pixels[..count * size])?;
    write_idx(&out.join(labels), &[count], &all.labels[..count])
}

/// A gzipped IDX file of unsigned bytes.
fn write_idx(path: &Path, shape: &[usize], elements: &[u8]) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut bytes = (0x0800 | shape.len() as u32).to_be_bytes().to_vec();
    for length in shape {
        bytes.extend((*length as u32).to_be_bytes());
    }
    // Without a name and a time in the header, which would make each file another.
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(&bytes).and_then(|()| gz.write_all(elements)).map_err(io)?;
    Ok(write_atomically(path, &gz.finish().map_err(io)?)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Serves one body for each connection, on a port of its own.
    fn serve(bodies: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for body in bodies {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&body).unwrap();
            }
        });
        address
    }

    fn gz(content: &[u8]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(content).unwrap();
        gz.finish().unwrap()
    }

    #[test]
    fn a_file_is_fetched_once_and_checked_by_its_content() {
        // SHA-256 of "abc", from FIPS 180-4's examples.
        let files = [("a.gz", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")];
        let dir = tempfile::tempdir().unwrap();
        let wrong = fetch_files(&serve(vec![gz(b"abd")]), dir.path(), &files).unwrap_err().to_string();
        assert!(wrong.contains("a.gz") && wrong.contains("expected ba7816bf"), "{wrong}");
        let no_gzip = fetch_files(&serve(vec![b"<html>".to_vec()]), dir.path(), &files).unwrap_err().to_string();
        assert!(no_gzip.contains("not a gzip file"), "{no_gzip}");
        assert!(!dir.path().join("a.gz").exists());
        fetch_files(&serve(vec![gz(b"abc")]), dir.path(), &files).unwrap();
        assert_eq!(fs::read(dir.path().join("a.gz")).unwrap(), gz(b"abc"));
        // Now it is there, and nobody is asked.
        fetch_files("http://127.0.0.1:1", dir.path(), &files).unwrap();
    }

    #[test]
    fn an_unreachable_server_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = fetch("http://127.0.0.1:1/", dir.path()).unwrap_err().to_string();
        assert!(message.contains("http://127.0.0.1:1/train-images-idx3-ubyte.gz"), "{message}");
    }

    #[test]
    fn the_sample_is_the_start_of_the_test_split_and_the_same_bytes_each_time() {
        let (from, to, again) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pixels: Vec<u8> = (0..1003 * 6).map(|i| (i % 251) as u8).collect();
        let labels: Vec<u8> = (0..1003).map(|i| (i % 10) as u8).collect();
        write_idx(&from.path().join("t10k-images-idx3-ubyte.gz"), &[1003, 2, 3], &pixels).unwrap();
        write_idx(&from.path().join("t10k-labels-idx1-ubyte.gz"), &[1003], &labels).unwrap();
        sample(from.path(), to.path()).unwrap();
        sample(from.path(), again.path()).unwrap();
        let sample = source::read_idx(to.path(), Part::Test, 10).unwrap();
        assert_eq!((sample.height, sample.width), (2, 3));
        assert_eq!((sample.pixels.as_slice(), sample.labels.as_slice()), (&pixels[..6000], &labels[..1000]));
        for (name, _) in &FILES[2..] {
            assert_eq!(fs::read(to.path().join(name)).unwrap(), fs::read(again.path().join(name)).unwrap());
        }
    }
}
