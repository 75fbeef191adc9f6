//! `--introspection`: whether a server reports on its registration, and whether clients may pause it.

use tonic_etcd::Registrar;
use tonic_etcd::introspection::pb::introspection_server::IntrospectionServer;
use tonic_etcd::introspection::{FILE_DESCRIPTOR_SET, Introspection};
use tonic_reflection::server::Builder;

#[derive(Debug, clap::Args)]
pub(crate) struct IntrospectionArgs {
    /// Serve what this process has registered
    #[arg(long, env = "GREETER_INTROSPECTION", value_enum, value_name = "ACCESS")]
    introspection: Option<Access>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Access {
    /// Every client of the server may read
    Read,
    /// Every client of the server may read, and pause the registration
    Control,
}

// === impl IntrospectionArgs ===

impl IntrospectionArgs {
    pub(crate) fn service(
        &self,
        registrar: &Registrar,
    ) -> Option<IntrospectionServer<Introspection>> {
        let access = self.introspection?;
        let introspection = Introspection::builder().registrar(registrar);
        let introspection = introspection.remote_control(access == Access::Control);
        Some(introspection.build())
    }

    pub(crate) fn describe<'a>(&self, reflection: Builder<'a>) -> Builder<'a> {
        match self.introspection {
            Some(_) => reflection.register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET),
            None => reflection,
        }
    }
}
