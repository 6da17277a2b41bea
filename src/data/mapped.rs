//! The one call of this room that the compiler cannot check: mapping a shard.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a shard read-only.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is sound as long as nobody changes or shortens the file under it. Shards are written
    // under a temporary name, renamed into place once complete, and from then on only ever unlinked, which leaves
    // existing mappings intact.
    unsafe { Mmap::map(file) }
}
