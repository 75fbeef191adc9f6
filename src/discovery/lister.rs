//! [`Lister`]: reads all keys below a prefix, page by page.
//!
//! All pages are as of the revision of the first one. When etcd compacts that, the others are as of the newest revision.
//! The caller watches from the revision of the first page on, and applies the events after the list: in the
//! end each key is as its last event says.

use super::decoder::Decoder;
use super::store::{Known, Limits, Reading};
use crate::etcd::{Page, RpcError, RpcErrorKind, Session, with_timeout};
use std::time::Duration;

/// See the [module](self).
pub(super) struct Lister {
    prefix: String,
    /// The time limit for one page.
    limit: Duration,
    limits: Limits,
    page_size: i64,
}

/// A list that is under way, or complete.
pub(super) struct Listing {
    pub(super) readings: Vec<Reading>,
    /// The revision of the first page.
    pub(super) revision: i64,
    /// The number of keys at that revision.
    total: usize,
    bytes: usize,
    /// The revision of the next page; 0: the newest.
    at: i64,
    /// Where the next page begins. `None`: the list is complete.
    next: Option<Vec<u8>>,
}

/// Keys in one page: some hundred kilobytes with common values.
const PAGE: i64 = 1000;
/// A page of one key cannot be made smaller: its time limit is multiplied by this.
const SINGLE_KEY_FACTOR: u32 = 10;

// === impl Lister ===

impl Lister {
    pub(super) fn new(prefix: String, limit: Duration, limits: Limits) -> Self {
        Self {
            prefix,
            limit,
            limits,
            page_size: PAGE,
        }
    }

    pub(super) fn begin(&self) -> Listing {
        Listing {
            readings: vec![],
            revision: 0,
            total: 0,
            bytes: 0,
            at: 0,
            next: Some(self.prefix.clone().into_bytes()),
        }
    }

    /// Reads the next page.
    pub(super) async fn next_page(
        &mut self,
        session: &Session,
        decoder: &mut Decoder,
        listing: &mut Listing,
    ) -> Result<(), RpcError> {
        let Some(from) = listing.next.clone() else {
            return Ok(());
        };
        let page = self.page(session, from.clone(), listing.at).await;
        let page = match page {
            Err(error) if error.kind() == RpcErrorKind::Compacted && listing.at > 0 => {
                listing.at = 0;
                self.page(session, from, 0).await?
            }
            page => page?,
        };
        if listing.revision == 0 {
            listing.total = usize::try_from(page.count).unwrap_or(0);
            (listing.revision, listing.at) = (page.revision, page.revision);
        }
        if page.revision < listing.revision {
            let what = "its revision went back while it was listed";
            return Err(RpcError::broken(session.endpoint(), what));
        }
        for found in page.found {
            if !listing.is_full(self.limits) {
                let reading = decoder.read(found);
                listing.bytes += reading.weight();
                listing.readings.push(reading);
            }
        }
        listing.next = page.next.filter(|_| !listing.is_full(self.limits));
        if listing.is_complete() {
            // Only after a whole list: a list that grows and shrinks its pages could never end.
            self.page_size = (self.page_size * 2).min(PAGE);
        }
        Ok(())
    }

    /// Whether the keys at `revision` are these.
    pub(super) async fn are(
        &mut self,
        known: Vec<Known>,
        session: &Session,
        decoder: &Decoder,
        revision: i64,
    ) -> Result<bool, RpcError> {
        let mut known = known.into_iter();
        let mut next = Some(self.prefix.clone().into_bytes());
        while let Some(from) = next {
            let page = self.page(session, from, revision).await?;
            for found in page.found {
                let is_as_known = known.next().is_some_and(|known| {
                    *known.key == *found.key
                        && known.seen == found.seen
                        && known.digest == decoder.digest(&found.value)
                });
                if !is_as_known {
                    return Ok(false);
                }
            }
            next = page.next;
        }
        Ok(known.next().is_none())
    }

    /// One page. If it comes too late, as on a slow link, the next attempt requests a smaller one.
    async fn page(
        &mut self,
        session: &Session,
        from: Vec<u8>,
        revision: i64,
    ) -> Result<Page, RpcError> {
        loop {
            let size = self.page_size;
            let limit = match size {
                1 => self.limit.saturating_mul(SINGLE_KEY_FACTOR),
                _ => self.limit,
            };
            let page = session
                .clone()
                .page(&self.prefix, from.clone(), revision, size);
            let page = with_timeout(limit, session.endpoint(), page).await;
            let smaller = (size / 10).max(1);
            match page.as_ref().map_err(RpcError::kind) {
                Err(RpcErrorKind::TooLarge) if size > 1 => self.page_size = smaller,
                Err(RpcErrorKind::Timeout) => {
                    self.page_size = smaller;
                    return page;
                }
                _ => return page,
            }
        }
    }
}

// === impl Listing ===

impl Listing {
    pub(super) fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// The number of keys that there was no room for.
    pub(super) fn unread(&self) -> usize {
        self.total.saturating_sub(self.readings.len())
    }

    fn is_full(&self, limits: Limits) -> bool {
        self.readings.len() >= limits.keys || self.bytes >= limits.bytes
    }
}
