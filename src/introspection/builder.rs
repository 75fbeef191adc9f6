//! [`Introspection`]: what the service tells of, and whether clients may pause.

use super::pb::introspection_server::IntrospectionServer;
use super::service::IntrospectionService;
use super::sources::Sources;
#[cfg(feature = "discovery")]
use crate::discovery::{BalancedChannel, Discovery};
use crate::registrar::Registrar;

/// Builds the service: what it tells of, and whether clients may pause.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct Introspection {
    sources: Sources,
    remote_control: bool,
}

// === impl Introspection ===

impl Introspection {
    /// A service that knows of nothing yet, and that nobody can change anything with.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells of all registrations of this registrar, those that are made later included. Keeps none of
    /// them alive.
    pub fn registrar(mut self, registrar: &Registrar) -> Self {
        self.sources.registries.push(registrar.registry().clone());
        self
    }

    /// Tells of this discovery. Keeps its watch alive, as a clone does.
    #[cfg(feature = "discovery")]
    #[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
    pub fn discovery(mut self, discovery: &Discovery) -> Self {
        self.sources.discoveries.push(discovery.clone());
        self
    }

    /// Tells of the endpoints of this channel, under a name that you choose. Keeps its connections
    /// alive, as a clone does.
    #[cfg(feature = "discovery")]
    #[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
    pub fn channel(mut self, name: impl Into<String>, channel: &BalancedChannel) -> Self {
        self.sources.channels.push((name.into(), channel.clone()));
        self
    }

    /// Lets clients pause registrations, and resume them. Whoever can call the service can then take
    /// this server out of etcd: serve it where only operators come. Off by default.
    pub fn remote_control(mut self, allowed: bool) -> Self {
        self.remote_control = allowed;
        self
    }

    /// The service, to be added to a server.
    #[must_use]
    pub fn service(self) -> IntrospectionServer<IntrospectionService> {
        let service = IntrospectionService::new(self.sources, self.remote_control);
        IntrospectionServer::new(service)
    }
}
