//! How the files of a tree are laid into chunks: a large file in chunks of its own, small files together. The layout
//! follows from the manifest alone, so a chunk's name and its place in the list are all that a tree's object adds to it.
//! It knows no bytes.

use crate::tree::Manifest;

/// No chunk is larger, in bytes. What breaks off costs at most that much again.
pub const LARGEST: u64 = 8 << 20;

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which entry of the manifest.
    pub entry: usize,
    /// Where in the file it begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// The chunks of a tree, each as the stretches of files that stand in it one behind the other.
pub fn chunks(manifest: &Manifest) -> Vec<Vec<Piece>> {
    let (mut chunks, mut shared, mut filled) = (Vec::new(), Vec::new(), 0);
    for (entry, file) in manifest.entries().iter().enumerate() {
        if file.size > LARGEST {
            let mut offset = 0;
            while offset < file.size {
                let len = LARGEST.min(file.size - offset);
                chunks.push(vec![Piece { entry, offset, len }]);
                offset += len;
            }
        } else if file.size > 0 {
            if filled + file.size > LARGEST {
                chunks.push(std::mem::take(&mut shared));
                filled = 0;
            }
            shared.push(Piece { entry, offset: 0, len: file.size });
            filled += file.size;
        }
    }
    if !shared.is_empty() {
        chunks.push(shared);
    }
    chunks
}

/// How many chunks a tree has, by its sizes alone.
pub fn count(manifest: &Manifest) -> u64 {
    let (mut count, mut filled) = (0_u64, 0);
    for file in manifest.entries().iter().filter(|file| file.size > 0) {
        if file.size > LARGEST {
            // The sizes of a manifest add up to at most 2^64, so this does not run over.
            count += file.size.div_ceil(LARGEST);
        } else if filled + file.size > LARGEST {
            count += 1;
            filled = file.size;
        } else {
            filled += file.size;
        }
    }
    count + u64::from(filled > 0)
}

/// How long a chunk is.
pub fn len(chunk: &[Piece]) -> u64 {
    chunk.iter().map(|piece| piece.len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(sizes: &[u64]) -> Manifest {
        let digest = crate::digest::Digest::of_bytes(b"");
        let text: String =
            sizes.iter().enumerate().map(|(n, size)| format!("{digest} {size} f{n:03}\n")).collect();
        Manifest::parse(&text).unwrap()
    }

    #[test]
    fn small_files_share_chunks_and_large_ones_have_their_own() {
        let lens = |sizes: &[u64]| {
            let manifest = manifest(sizes);
            let chunks = chunks(&manifest);
            assert_eq!(count(&manifest), chunks.len() as u64, "{sizes:?}");
            chunks.iter().map(|chunk| len(chunk)).collect::<Vec<_>>()
        };
        assert_eq!(lens(&[]), [0; 0]);
        assert_eq!(lens(&[0, 0]), [0; 0], "an empty file needs no chunk");
        assert_eq!(lens(&[1, 2, 3]), [6]);
        assert_eq!(lens(&[LARGEST]), [LARGEST]);
        assert_eq!(lens(&[LARGEST + 1]), [LARGEST, 1]);
        assert_eq!(lens(&[1, 2 * LARGEST + 5, 2]), [LARGEST, LARGEST, 5, 3]);
        assert_eq!(lens(&[LARGEST - 1, 1, 1]), [LARGEST, 1]);
        assert_eq!(lens(&[LARGEST, LARGEST + 1, 0, LARGEST / 2]), [LARGEST, 1, LARGEST, LARGEST / 2]);
    }

    #[test]
    fn every_byte_of_every_file_stands_in_one_chunk() {
        let sizes = [5, 0, LARGEST, 3 * LARGEST + 1, 7, LARGEST / 2, LARGEST / 2 + 1, 1];
        let mut covered = vec![0; sizes.len()];
        for piece in chunks(&manifest(&sizes)).into_iter().flatten() {
            assert_eq!(piece.offset, covered[piece.entry], "in order and without a gap");
            covered[piece.entry] += piece.len;
        }
        assert_eq!(covered, sizes);
    }
}
