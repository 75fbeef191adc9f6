//! [`Kind`]: the ecosystems of the Go half.

use std::sync::Arc;
use tonic_etcd::format::{EtcdNaming, Format, GoZero, Kratos};

/// Whose libraries are on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// grpc-go with etcd's own resolver and endpoint manager.
    Etcd,
    /// kratos, all of it but its etcd registry: that one is a stand-in.
    Kratos,
    /// go-zero's zrpc.
    GoZero,
}

/// What everything here is registered as.
pub const SERVICE: &str = "greeter";

/// Makes a test of a function for each kind. Its path then names the kind.
macro_rules! for_each_kind {
    ($($test:ident),+ $(,)?) => {
        for_each_kind!(@ etcd, Etcd, $($test),+);
        for_each_kind!(@ kratos_with_a_stand_in_registry, Kratos, $($test),+);
        for_each_kind!(@ go_zero, GoZero, $($test),+);
    };
    (@ $module:ident, $kind:ident, $($test:ident),+) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(crate::kind::Kind::$kind).await;
                }
            )+
        }
    };
}

// === impl Kind ===

impl Kind {
    /// As the Go half calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Kratos => "kratos",
            Self::GoZero => "go-zero",
        }
    }

    /// What our side writes and reads.
    pub fn format(self) -> Arc<dyn Format> {
        match self {
            Self::Etcd => Arc::new(EtcdNaming::new()),
            Self::Kratos => Arc::new(Kratos::new()),
            Self::GoZero => Arc::new(GoZero::new()),
        }
    }

    /// What the keys of the greeter begin with.
    pub fn prefix(self) -> String {
        self.format().key_prefix(SERVICE)
    }
}
