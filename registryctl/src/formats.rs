//! The formats of the library, by their names on a command line.

use std::sync::Arc;
use tonic_etcd::format::{CoreDns, EtcdNaming, Format, GoMicro, GoZero, Kitex, Kratos, Plain};

/// What other ecosystems read, each with its own defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FormatName {
    /// The instance as JSON, or any text
    Plain,
    /// etcd's naming for grpc-go: etcd:///NAME
    EtcdNaming,
    /// kratos, in the namespace /microservices
    Kratos,
    /// kitex, below kitex/registry-etcd
    Kitex,
    /// go-zero, with NAME as the key
    GoZero,
    /// go-micro, below /micro/registry
    GoMicro,
    /// CoreDNS, in the domain skydns.local
    #[value(name = "coredns")]
    CoreDns,
}

impl FormatName {
    /// The format; the plain one as it is given.
    pub(crate) fn format(self, plain: &Plain) -> Arc<dyn Format> {
        match self {
            Self::Plain => Arc::new(plain.clone()),
            Self::EtcdNaming => Arc::new(EtcdNaming::new()),
            Self::Kratos => Arc::new(Kratos::new()),
            Self::Kitex => Arc::new(Kitex::new()),
            Self::GoZero => Arc::new(GoZero::new()),
            Self::GoMicro => Arc::new(GoMicro::new()),
            Self::CoreDns => Arc::new(CoreDns::new()),
        }
    }
}
