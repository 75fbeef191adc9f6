//! [`Secured`]: an etcd with TLS.
//!
//! It has two endpoints: a plaintext one for the tests themselves, and the one under test.

use crate::certificates::{Authority, Identity, write};
use crate::etcd::{Etcd, Plan};
use crate::ports;
use std::cell::RefCell;
use tempfile::TempDir;

/// An etcd with a TLS endpoint.
pub struct Secured {
    pub etcd: Etcd,
    pub endpoint: String,
    pub files: TempDir,
}

// === impl Secured ===

impl Secured {
    /// An etcd that shows `identity`, and asks for a certificate of `clients` if that is given.
    pub async fn start(identity: &Identity, clients: Option<&Authority>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, pem: &str| write(files.path(), name, pem).display().to_string();
        let mut args = vec![
            format!(
                "--cert-file={}",
                write("certificate", &identity.certificate)
            ),
            format!("--key-file={}", write("key", &identity.key)),
        ];
        if let Some(authority) = clients {
            args.push("--client-cert-auth".to_owned());
            args.push(format!("--trusted-ca-file={}", write("ca", &authority.pem)));
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        // Another one for each attempt to start.
        let endpoint = RefCell::new(String::new());
        let plan = || {
            let url = format!("https://127.0.0.1:{}", ports::free());
            let plan = Plan::new("solo").alone().also_at(&url).with_args(&args);
            endpoint.replace(url);
            plan
        };
        let etcd = Etcd::start_as(plan).await;
        Self {
            etcd,
            endpoint: endpoint.into_inner(),
            files,
        }
    }
}
