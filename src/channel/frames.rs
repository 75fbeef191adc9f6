//! [`Frames`]: follows the frames in the bytes of an HTTP/2 connection; pure.

use crate::runtime::escaped::Escaped;
use std::fmt;
use std::ops::Range;

/// The position in the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: Vec<u8>,
    kind: u8,
    /// How much of the payload is still to come.
    left: usize,
    /// The payload so far, if it is one that is read.
    payload: Option<Vec<u8>>,
    is_pong: bool,
    /// Headers continue in the next frame, and no other frame may be between the two.
    headers_continue: bool,
}

/// The frames that a peer sends, without its answers to pings: h2 logs a warning for each of them, and a peer may send any
/// number.
#[derive(Debug, Default)]
pub(super) struct Received {
    frames: Frames,
    /// The first bytes of a header. They are passed on once it is certain that they do not begin an answer to a ping.
    header: Vec<u8>,
}

/// A frame: `SETTINGS` and `GOAWAY` are reported at their end, others once their header was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Settings {
        max_streams: Option<u32>,
    },
    GoAway(GoAway),
    /// The answer to a ping.
    Pong,
    Headers,
    Data,
    Other,
}

/// What a peer said when it began to end a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoAway {
    /// It may process streams up to this one.
    pub(super) last_stream: u32,
    code: u32,
    debug_data: String,
}

pub(super) const HEADER: usize = 9;
const PREFACE: usize = 24;
/// The most of a payload that is kept. A peer chooses its length.
const KEPT: usize = 4096;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;

// === impl Frames ===

impl Frames {
    /// The frames that a client sends, behind its preface.
    pub(super) fn of_client() -> Self {
        Self {
            left: PREFACE,
            ..Self::default()
        }
    }

    /// Consumes bytes until a frame is to be reported, or there are no more.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let piece = take(bytes, self.left);
            self.left -= piece.len();
            if let Some(payload) = &mut self.payload {
                let kept = piece.len().min(KEPT - payload.len());
                payload.extend_from_slice(piece.get(..kept).unwrap_or_default());
            }
            if self.left > 0 {
                return None;
            }
            if let Some(payload) = self.payload.take() {
                return Some(self.with_payload(&payload));
            }
            self.header
                .extend_from_slice(take(bytes, HEADER - self.header.len()));
            let [a, b, c, kind, flags, _, _, _, _] = *self.header else {
                return None;
            };
            self.header.clear();
            self.left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            self.kind = kind;
            // One of another length is an error of the connection, which h2 reports.
            self.is_pong = kind == PING && flags & ACK != 0 && self.left == 8;
            if matches!(kind, HEADERS | CONTINUATION) {
                self.headers_continue = flags & END_HEADERS == 0;
            }
            match kind {
                SETTINGS | GO_AWAY => self.payload = Some(Vec::new()),
                _ if self.is_pong => return Some(Frame::Pong),
                HEADERS => return Some(Frame::Headers),
                DATA => return Some(Frame::Data),
                _ => return Some(Frame::Other),
            }
        }
    }

    /// Consumes the rest of a frame that was reported already.
    fn skip(&mut self, bytes: &mut &[u8]) {
        if self.payload.is_none() {
            self.left -= take(bytes, self.left).len();
        }
    }

    /// Whether another frame may be put in here.
    pub(super) fn is_between(&self) -> bool {
        self.has_ended() && !self.headers_continue
    }

    /// Whether a header comes next.
    fn has_ended(&self) -> bool {
        self.left == 0 && self.payload.is_none() && self.header.is_empty()
    }

    fn with_payload(&self, payload: &[u8]) -> Frame {
        match self.kind {
            SETTINGS => Frame::Settings {
                max_streams: max_streams(payload),
            },
            GO_AWAY => GoAway::read(payload).map_or(Frame::Other, Frame::GoAway),
            _ => Frame::Other,
        }
    }
}

// === impl Received ===

impl Received {
    /// Reads bytes that begin with [`header`](Self::header). Moves those to be passed on to the front, and returns their number.
    pub(super) fn read(&mut self, bytes: &mut [u8], mut on_frame: impl FnMut(Frame)) -> usize {
        self.header.clear();
        let (mut at, mut kept) = (0, 0);
        loop {
            let mut rest = bytes.get(at..).unwrap_or_default();
            self.frames.skip(&mut rest);
            let is_cut = self.frames.has_ended() && rest.len() < HEADER;
            if is_cut {
                self.header.extend_from_slice(rest);
            }
            let skipped = bytes.len() - rest.len();
            (at, kept) = self.pass_on(bytes, at..skipped, kept);
            if is_cut {
                return kept;
            }
            let mut rest = bytes.get(at..).unwrap_or_default();
            let frame = self.frames.next(&mut rest);
            let read = bytes.len() - rest.len();
            (at, kept) = self.pass_on(bytes, at..read, kept);
            match frame {
                Some(frame) => on_frame(frame),
                None => return kept,
            }
        }
    }

    /// The first bytes of a header, if the last read ended in one.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Moves a range of the current frame to `kept`. Returns the end of the range, and of what is kept.
    fn pass_on(&self, bytes: &mut [u8], range: Range<usize>, kept: usize) -> (usize, usize) {
        let (end, len) = (range.end, range.len());
        if self.frames.is_pong {
            return (end, kept);
        }
        if range.start != kept {
            bytes.copy_within(range, kept);
        }
        (end, kept + len)
    }
}

/// Splits off at most `n` bytes.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (piece, rest) = bytes.split_at(n.min(bytes.len()));
    *bytes = rest;
    piece
}

/// The last value counts (RFC 9113).
fn max_streams(payload: &[u8]) -> Option<u32> {
    let entries = payload.chunks_exact(6).rev();
    let mut values = entries.filter_map(|entry| match *entry {
        [a, b, c, d, e, f] if u16::from_be_bytes([a, b]) == MAX_CONCURRENT_STREAMS => {
            Some(u32::from_be_bytes([c, d, e, f]))
        }
        _ => None,
    });
    values.next()
}

// === impl GoAway ===

impl GoAway {
    fn read(payload: &[u8]) -> Option<Self> {
        let (last_stream, rest) = payload.split_first_chunk::<4>()?;
        let (code, debug_data) = rest.split_first_chunk::<4>()?;
        let debug_data = String::from_utf8_lossy(debug_data);
        Some(Self {
            last_stream: u32::from_be_bytes(*last_stream) & (u32::MAX >> 1),
            code: u32::from_be_bytes(*code),
            debug_data: Escaped::at_most(&debug_data, 64).to_string(),
        })
    }

    /// Whether nothing is wrong: the peer only ends the connection.
    pub(super) fn is_graceful(&self) -> bool {
        self.code == u32::from(h2::Reason::NO_ERROR)
    }

    /// The debug data is that of gRPC (proposal A8), or missing.
    pub(super) fn is_too_many_pings(&self) -> bool {
        self.code == u32::from(h2::Reason::ENHANCE_YOUR_CALM)
            && matches!(&*self.debug_data, "" | "too_many_pings")
    }
}

/// `GOAWAY ENHANCE_YOUR_CALM too_many_pings`.
impl fmt::Display for GoAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GOAWAY {:?}", h2::Reason::from(self.code))?;
        match &*self.debug_data {
            "" => Ok(()),
            data => write!(f, " {data}"),
        }
    }
}

/// What must hold for the bytes of any peer, which arrive in pieces of this size.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_frames(bytes: &[u8], size: usize) {
    let read = |size: usize| {
        let (mut received, mut frames, mut passed) = (Received::default(), vec![], vec![]);
        for piece in bytes.chunks(size) {
            let mut read = [received.header(), piece].concat();
            let kept = received.read(&mut read, |frame| frames.push(frame));
            passed.extend_from_slice(read.get(..kept).unwrap_or_default());
        }
        passed.extend_from_slice(received.header());
        (frames, passed)
    };
    let (frames, passed) = read(bytes.len().max(1));
    assert_eq!((&frames, &passed), (&read(size).0, &read(size).1));
    let (mut without, mut rest) = (Frames::default(), &*passed);
    while let Some(frame) = without.next(&mut rest) {
        assert_ne!(frame, Frame::Pong);
        without.skip(&mut rest);
    }
    for frame in frames {
        if let Frame::GoAway(go_away) = frame {
            let text = go_away.to_string();
            assert!(
                text.len() < 512 && !text.contains(char::is_control),
                "{text}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let some = [setting(3, 1), setting(4, 7), setting(3, 250)].concat();
        let goaway = [&[0x80, 0, 0, 9, 0, 0, 0, 11], &b"too_many_pings"[..]].concat();
        let all = [
            frame(SETTINGS, 0, &setting(4, 7)),
            frame(DATA, 0, &frame(SETTINGS, 0, &setting(3, 9))),
            frame(SETTINGS, 0, &some),
            frame(PING, 0, &[7; 8]),
            frame(PING, ACK, &[7; 8]),
            frame(HEADERS, END_HEADERS, b"x"),
            frame(GO_AWAY, 0, &goaway),
            frame(SETTINGS, ACK, &[]),
        ]
        .concat();
        for size in 1..=all.len() {
            let mut frames = Frames::default();
            let mut found = vec![];
            for mut piece in all.chunks(size) {
                found.extend(std::iter::from_fn(|| frames.next(&mut piece)));
            }
            let settings = |max_streams| Frame::Settings { max_streams };
            let goaway = GoAway {
                last_stream: 9,
                code: 11,
                debug_data: "too_many_pings".to_owned(),
            };
            assert!(goaway.is_too_many_pings() && !goaway.is_graceful());
            let shown = "GOAWAY ENHANCE_YOUR_CALM too_many_pings";
            assert_eq!(goaway.to_string(), shown);
            let expected = [
                settings(None),
                Frame::Data,
                settings(Some(250)),
                Frame::Other,
                Frame::Pong,
                Frame::Headers,
                Frame::GoAway(goaway),
                settings(None),
            ];
            assert_eq!(found, expected, "{size}");
            assert!(frames.is_between());
        }
    }

    #[test]
    fn answers_to_pings_are_taken_out_however_the_bytes_are_cut() {
        let pong = frame(PING, ACK, &[7; 8]);
        let others = [
            frame(SETTINGS, 0, &setting(3, 250)),
            frame(DATA, 0, &pong),
            frame(PING, 0, &[7; 8]),
            frame(HEADERS, END_HEADERS, b"x"),
        ];
        let all = [
            &pong, &others[0], &pong, &pong, &others[1], &pong, &others[2], &others[3], &pong,
        ];
        let (all, others) = (all.map(|it| &**it).concat(), others.concat());
        for size in 1..=all.len() {
            let (mut received, mut passed, mut pongs) = (Received::default(), vec![], 0);
            for piece in all.chunks(size) {
                let mut bytes = [received.header(), piece].concat();
                let kept = received.read(&mut bytes, |it| pongs += usize::from(it == Frame::Pong));
                passed.extend_from_slice(&bytes[..kept]);
            }
            assert_eq!((&passed, pongs), (&others, 5), "{size}");
        }
    }

    #[test]
    fn between_frames_is_neither_in_the_preface_nor_between_headers() {
        let mut frames = Frames::of_client();
        let headers = frame(HEADERS, 0, b"x");
        let rest = frame(CONTINUATION, END_HEADERS, b"y");
        let mut read = |mut bytes: &[u8]| {
            while frames.next(&mut bytes).is_some() {}
            frames.is_between()
        };
        assert!(!read(&[b'P'; 23]) && read(b"\n"));
        assert!(!read(&headers) && !read(&rest[..9]) && read(&rest[9..]));
    }

    #[test]
    fn a_payload_of_any_length_is_kept_in_part_only() {
        let mut frames = Frames::default();
        let huge = frame(GO_AWAY, 0, &[b'\n'; 1_000_000]);
        let Some(Frame::GoAway(goaway)) = frames.next(&mut &*huge) else {
            panic!("no GOAWAY")
        };
        assert!(goaway.to_string().len() < 120, "{goaway}");
        assert!(!goaway.to_string().contains('\n'), "{goaway}");
    }
}
