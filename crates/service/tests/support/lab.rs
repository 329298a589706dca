//! Authorities, certificates and files for tests.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use semlink_service::config::Problems;
use semlink_service::security::Fingerprint;
use tempfile::TempDir;

/// A directory for the files of one test.
pub(crate) struct Lab(TempDir);

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) fingerprint: Fingerprint,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file");
        path
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// For `localhost`, valid now.
    pub(crate) fn issue(&self) -> Identity {
        self.issue_until(2999)
    }

    pub(crate) fn issue_until(&self, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let fingerprint = Fingerprint::of(certificate.der());
        Identity { chain: certificate.pem(), key: key.serialize_pem(), fingerprint }
    }
}

/// Writes an identity's chain and key.
pub(crate) fn write(lab: &Lab, name: &str, identity: &Identity) -> (Option<PathBuf>, Option<PathBuf>) {
    let chain = lab.write(&format!("{name}.pem"), &identity.chain);
    (Some(chain), Some(lab.write(&format!("{name}.key"), &identity.key)))
}

/// What a check makes of good settings.
pub(crate) fn checked<T>(check: impl FnOnce(&mut Problems) -> Option<T>) -> T {
    let mut problems = Problems::new();
    let value = check(&mut problems);
    problems.finish(value).expect("usable settings")
}

/// What a check says of bad ones.
pub(crate) fn faults<T>(check: impl FnOnce(&mut Problems) -> Option<T>) -> String {
    let mut problems = Problems::new();
    let value = check(&mut problems);
    problems.finish(value).map(drop).expect_err("faults").to_string()
}
