//! [`Lister`]: reads all keys below a prefix, page by page, at one revision.

use super::decoder::Decoder;
use super::store::{Limits, Reading};
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

/// All keys at one revision.
pub(super) struct Listed {
    pub(super) readings: Vec<Reading>,
    /// The number of keys that there was no room for.
    pub(super) unread: usize,
    pub(super) revision: i64,
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

    /// Calls `on_page` for each page.
    pub(super) async fn list(
        &mut self,
        session: &Session,
        decoder: &mut Decoder,
        on_page: impl Fn(),
    ) -> Result<Listed, RpcError> {
        let (mut from, mut revision) = (self.prefix.clone().into_bytes(), 0);
        let (mut readings, mut total, mut bytes) = (vec![], 0, 0);
        loop {
            let page = self.page(session, from, revision).await?;
            on_page();
            if revision == 0 {
                (revision, total) = (page.revision, usize::try_from(page.count).unwrap_or(0));
            }
            for found in page.found {
                if readings.len() < self.limits.keys && bytes < self.limits.bytes {
                    let reading = decoder.read(found);
                    bytes += reading.weight();
                    readings.push(reading);
                }
            }
            let is_full = readings.len() >= self.limits.keys || bytes >= self.limits.bytes;
            match page.next.filter(|_| !is_full) {
                Some(next) => from = next,
                None => break,
            }
        }
        // Only after a whole list: a list that grows and shrinks its pages could never end.
        self.page_size = (self.page_size * 2).min(PAGE);
        Ok(Listed {
            unread: total.saturating_sub(readings.len()),
            readings,
            revision,
        })
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
