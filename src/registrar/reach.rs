//! Whether others can dial an address that is to be advertised.

use super::registry::Config;
use crate::address::Address;
use crate::error::{AddressError, RegisterError};

impl Config {
    /// Refuses an address that only this machine can dial if etcd is certainly on another machine, and so
    /// are its readers. Logs a warning if etcd may be.
    pub(super) fn check_reach(
        &self,
        service: &str,
        address: &Address,
    ) -> Result<(), RegisterError> {
        let members = &self.cluster.members;
        if !address.is_loopback() || self.allow_loopback {
            return Ok(());
        }
        if members.are_remote(&self.interfaces.list()) {
            return Err(AddressError {
                address: address.to_string(),
                reason: "only this machine can dial it, and etcd is not on it: advertise another \
                         address, or allow_loopback if that is meant",
            }
            .into());
        }
        if members.have_names() {
            crate::runtime::logging::warn!(service, %address, "only this machine can dial the address to be advertised");
        }
        Ok(())
    }
}
