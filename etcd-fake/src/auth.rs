//! Users, their simple tokens, and a role.

use crate::errors;
use crate::record::{Call, Rpc};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

/// Users and tokens. Without a user there is no authentication.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    users: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
    /// Tokens whose index the current history has not reached.
    ahead: BTreeSet<String>,
    issued: u64,
    /// What no user may do.
    pub(crate) denied: Option<Denied>,
}

/// The permissions that the role of every user lacks.
#[derive(Debug)]
pub(crate) struct Denied {
    /// For keys below it.
    pub(crate) prefix: String,
    /// To read, and to write.
    pub(crate) writes_too: bool,
}

// === impl Auth ===

impl Auth {
    /// From now on every request needs a token. A new password voids the tokens that were given for the old one.
    pub(crate) fn user(&mut self, name: &str, password: &str) {
        self.users.insert(name.to_owned(), password.to_owned());
        let theirs = format!("{name}.");
        self.tokens.retain(|token| !token.starts_with(&theirs));
    }

    /// All tokens are void, as after their lifetime, or after a restart of etcd.
    pub(crate) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// The history begins again, or from an older snapshot.
    pub(crate) fn lose_history(&mut self) {
        self.ahead.append(&mut self.tokens);
    }

    /// A simple token contains an index of etcd's log, and etcd checks the token only once its log has reached that
    /// index: after a loss of data that takes hours, or forever. Such a request is not answered meanwhile.
    pub(crate) fn is_waited_for(&self, rpc: Rpc, token: Option<&str>) -> bool {
        let is_ahead = token.is_some_and(|token| self.ahead.contains(token));
        is_ahead && !self.users.is_empty() && rpc != Rpc::Authenticate
    }

    /// Whether a request with this token may proceed. `is_lenient`: renewals and reads of leases accept any token.
    pub(crate) fn check(
        &self,
        call: &Call,
        token: Option<&str>,
        is_lenient: bool,
    ) -> Result<(), Status> {
        use Rpc::{LeaseGrant, LeaseKeepAlive, LeaseLeases, LeaseRevoke, LeaseTimeToLive};
        let rpc = call.rpc;
        let is_of_leases = matches!(rpc, LeaseGrant | LeaseRevoke | LeaseLeases);
        let is_renewal_or_read = matches!(rpc, LeaseKeepAlive | LeaseTimeToLive);
        match token {
            _ if self.users.is_empty() || rpc == Rpc::Authenticate => {}
            Some(token) if self.tokens.contains(token) => {}
            Some(_) if is_lenient && is_renewal_or_read => {}
            Some(_) => return Err(errors::invalid_auth_token()),
            // Without any token, lenient versions let all calls about leases through, and others those that change none.
            None if is_renewal_or_read || rpc == LeaseLeases || is_lenient && is_of_leases => {}
            None => return Err(errors::user_is_empty()),
        }
        self.check_role(call)
    }

    fn check_role(&self, call: &Call) -> Result<(), Status> {
        let Some(denied) = &self.denied else {
            return Ok(());
        };
        let is_below = |key: &String| key.starts_with(&denied.prefix);
        let mut writes = call.puts.iter().chain(&call.deletes);
        match call.reads.iter().any(is_below) || denied.writes_too && writes.any(is_below) {
            true => Err(errors::permission_denied()),
            false => Ok(()),
        }
    }

    pub(crate) fn authenticate(&mut self, name: &str, password: &str) -> Result<String, Status> {
        if self.users.is_empty() {
            return Err(errors::auth_not_enabled());
        }
        if self.users.get(name).map(String::as_str) != Some(password) {
            return Err(errors::auth_failed());
        }
        self.issued += 1;
        let token = format!("{name}.{}", self.issued);
        self.tokens.insert(token.clone());
        Ok(token)
    }
}
