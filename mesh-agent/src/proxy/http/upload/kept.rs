//! What was sent of a request's body, kept for the case that it must be sent again.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// The frames from the beginning, as long as they are few enough.
#[derive(Debug)]
pub(super) struct Kept {
    frames: Vec<Piece>,
    /// The next of them to be sent again.
    next: usize,
    /// How much more may be kept; `None` where nothing is.
    room: Option<usize>,
}

/// A frame that can be sent twice.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Data(Bytes),
    // Boxed, for there is one of them and many of the others.
    Trailers(Box<HeaderMap>),
}

impl Piece {
    /// `None` for a frame of a kind that is not passed on.
    pub(super) fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, Some(trailers)) => Some(Self::Trailers(Box::new(trailers.clone()))),
            (None, None) => None,
        }
    }

    pub(super) fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(*trailers),
        }
    }

    /// What keeping it costs, which for many small frames is more than their bytes.
    pub(super) fn cost(&self) -> usize {
        let bytes = match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        };
        bytes + size_of::<Self>()
    }
}

impl Kept {
    pub(super) fn nothing() -> Self {
        Self {
            frames: Vec::new(),
            next: 0,
            room: None,
        }
    }

    /// Begins to keep, up to a limit.
    pub(super) fn begin(&mut self, limit: usize) {
        self.room = Some(limit);
    }

    /// Keeps no longer. What was to be sent again and is not sent yet is still needed.
    pub(super) fn release(&mut self) {
        self.room = None;
        self.forget_sent();
    }

    /// Whether everything from the beginning is there.
    pub(super) fn is_whole(&self) -> bool {
        self.room.is_some()
    }

    /// Sends from the beginning.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next frame to be sent again.
    pub(super) fn again(&mut self) -> Option<Frame<Bytes>> {
        let piece = self.frames.get(self.next)?.clone();
        self.next += 1;
        if self.room.is_none() {
            self.forget_sent();
        }
        Some(piece.into_frame())
    }

    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) {
        let (Some(room), Some(piece)) = (self.room, Piece::of(frame)) else {
            return;
        };
        match room.checked_sub(piece.cost()) {
            Some(room) => {
                self.room = Some(room);
                self.frames.push(piece);
                self.next = self.frames.len();
            }
            // Too much: this request can be sent only once.
            None => self.release(),
        }
    }

    pub(super) fn all_sent(&self) -> bool {
        self.next >= self.frames.len()
    }

    fn forget_sent(&mut self) {
        if self.all_sent() {
            self.frames = Vec::new();
            self.next = 0;
        }
    }
}
