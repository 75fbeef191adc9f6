//! [`IntrospectionBuilder`]: builds the introspection service.

use super::pb::introspection_server::IntrospectionServer;
use super::service::Introspection;
use super::sources::Sources;
#[cfg(feature = "discovery")]
use crate::channel::BalancedChannel;
#[cfg(feature = "discovery")]
use crate::discovery::Discovery;
use crate::registrar::Registrar;

/// Builds an [`Introspection`]: what it reports on, and whether clients may pause registrations.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct IntrospectionBuilder {
    sources: Sources,
    remote_control: bool,
}

// === impl IntrospectionBuilder ===

impl IntrospectionBuilder {
    /// Reports on all registrations of this registrar, also later ones. Keeps none of
    /// them alive.
    pub fn registrar(mut self, registrar: &Registrar) -> Self {
        self.sources.registries.push(registrar.registry().clone());
        self
    }

    /// Reports on this discovery. Keeps its watch alive, as a clone does.
    #[cfg(feature = "discovery")]
    #[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
    pub fn discovery(mut self, discovery: &Discovery) -> Self {
        self.sources.discoveries.push(discovery.clone());
        self
    }

    /// Reports on the endpoints of this channel, under a name that you choose. Keeps its connections
    /// alive, as a clone does.
    #[cfg(feature = "discovery")]
    #[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
    pub fn channel(mut self, name: impl Into<String>, channel: &BalancedChannel) -> Self {
        self.sources.channels.push((name.into(), channel.clone()));
        self
    }

    /// Allows clients to pause and resume registrations. Default: off. Every client that can call the service can then take
    /// this server out of etcd, so serve it only to operators.
    pub fn remote_control(mut self, allowed: bool) -> Self {
        self.remote_control = allowed;
        self
    }

    /// The service, to be added to a server.
    #[must_use]
    pub fn build(self) -> IntrospectionServer<Introspection> {
        let service = Introspection::new(self.sources, self.remote_control);
        IntrospectionServer::new(service)
    }
}

// === impl Introspection ===

impl Introspection {
    /// Starts to build a service, which reports on nothing yet.
    pub fn builder() -> IntrospectionBuilder {
        IntrospectionBuilder::default()
    }
}
