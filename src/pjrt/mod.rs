//! pjrt.
