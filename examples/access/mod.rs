//! Which etcd, and as whom: the flags that examples share.

use clap::Args;
use tonic_etcd::Etcd;

#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Client URLs of etcd, separated by commas
    #[arg(long, env = "ETCD_ENDPOINTS", default_value = "http://127.0.0.1:2379")]
    #[arg(value_delimiter = ',', value_name = "URL")]
    etcd: Vec<String>,
    /// User of etcd, if it asks for one
    #[arg(long, env = "ETCD_USER", requires = "password")]
    user: Option<String>,
    /// Password of that user; better given by the environment
    #[arg(long, env = "ETCD_PASSWORD", hide_env_values = true, requires = "user")]
    password: Option<String>,
}

// === impl Access ===

impl Access {
    pub(crate) fn etcd(&self) -> Etcd {
        let etcd = Etcd::new(&self.etcd);
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => etcd.user(user, password),
            _ => etcd,
        }
    }
}
