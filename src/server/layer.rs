//! [`RegistrationLayer`].

use super::RegistrationService;
use crate::registrar::registration::Registration;
use crate::runtime::logging;
use std::fmt;
use tower_layer::Layer;

/// Connects a tonic server to its [`Registration`], and keeps the registration alive.
///
/// It counts requests in flight until the last frame of their response, and ends requests that are
/// left at the drain deadline: gRPC requests with `UNAVAILABLE`, others with status 503, or, once
/// their response has begun, with an error of the body. It allocates nothing for a request.
///
/// Apply it to every server of the registration, outside of layers that answer or delay requests
/// themselves. When nothing is in flight for 1.5 s of a drain, the connections that are left are
/// closed, and with them requests that this layer does not count.
///
/// Applying it announces instances with an explicit [address](crate::Instance::with_address), because tonic
/// applies layers in `serve`, after it has bound. If the registration has a listener, the listener's first poll
/// announces instead. axum applies layers when the router is built, before anything
/// listens: there, use [`announce(false)`](Self::announce). It may be applied more than
/// once.
#[derive(Clone)]
pub struct RegistrationLayer {
    registration: Registration,
    announces: bool,
}

// === impl Registration ===

impl Registration {
    /// The layer for the server: counts requests in flight, ends them at the drain deadline, and
    /// announces instances with an explicit address when it is applied.
    #[must_use]
    pub fn layer(&self) -> RegistrationLayer {
        RegistrationLayer {
            registration: self.clone(),
            announces: true,
        }
    }
}

// === impl RegistrationLayer ===

impl RegistrationLayer {
    /// Whether it announces the server when it is applied. Default: yes.
    ///
    /// Set it to `false` for a server that applies layers before it listens, such as axum. Then
    /// [`incoming`](Registration::incoming) or [`announce`](Registration::announce) announces.
    #[must_use]
    pub fn announce(mut self, announces: bool) -> Self {
        self.announces = announces;
        self
    }

    fn on_applied(&self) {
        let (draft, lifecycle) = (
            self.registration.entry().draft(),
            self.registration.lifecycle(),
        );
        if !self.announces || draft.is_announced() || lifecycle.has_listener() {
            return;
        }
        if !draft.is_explicit() {
            // axum applies a layer once for each route.
            if lifecycle.drain().is_first_warning() {
                logging::warn!(
                    "the address to dial this server is not known: give the instance an address, \
                     or serve it with serve_registered"
                );
            }
        } else if let Err(error) = self.registration.announce_served() {
            logging::error!(%error, "cannot announce this server");
        }
    }
}

impl<S> Layer<S> for RegistrationLayer {
    type Service = RegistrationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        self.on_applied();
        RegistrationService::new(inner, self.registration.clone())
    }
}

impl fmt::Debug for RegistrationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationLayer").finish_non_exhaustive()
    }
}
