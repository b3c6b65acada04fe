//! How the files of a tree are split into chunks: a large file has its own chunks, small files share one. The layout
//! follows from the manifest alone, so a tree object only adds the list of chunk digests. It knows no bytes.

use crate::tree::Manifest;

/// Size limit of a chunk, in bytes. An interrupted transfer repeats at most this much.
pub const MAX_CHUNK_BYTES: u64 = 8 << 20;

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePart {
    /// The index of its entry in the manifest.
    pub entry: usize,
    /// Its offset in the file.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

/// The chunks of a tree; each is a sequence of parts of files.
pub fn chunks(manifest: &Manifest) -> Vec<Vec<FilePart>> {
    let (mut chunks, mut shared, mut filled) = (Vec::new(), Vec::new(), 0);
    for (entry, file) in manifest.entries().iter().enumerate() {
        if file.size > MAX_CHUNK_BYTES {
            let mut offset = 0;
            while offset < file.size {
                let len = MAX_CHUNK_BYTES.min(file.size - offset);
                chunks.push(vec![FilePart { entry, offset, len }]);
                offset += len;
            }
        } else if file.size > 0 {
            if filled + file.size > MAX_CHUNK_BYTES {
                chunks.push(std::mem::take(&mut shared));
                filled = 0;
            }
            shared.push(FilePart { entry, offset: 0, len: file.size });
            filled += file.size;
        }
    }
    if !shared.is_empty() {
        chunks.push(shared);
    }
    chunks
}

/// The number of chunks of a tree, computed from its sizes alone.
pub fn count(manifest: &Manifest) -> u64 {
    let (mut count, mut filled) = (0_u64, 0);
    for file in manifest.entries().iter().filter(|file| file.size > 0) {
        if file.size > MAX_CHUNK_BYTES {
            // The sizes of a manifest add up to at most 2^64, so this cannot overflow.
            count += file.size.div_ceil(MAX_CHUNK_BYTES);
        } else if filled + file.size > MAX_CHUNK_BYTES {
            count += 1;
            filled = file.size;
        } else {
            filled += file.size;
        }
    }
    count + u64::from(filled > 0)
}

/// The length of a chunk.
pub fn len(chunk: &[FilePart]) -> u64 {
    chunk.iter().map(|part| part.len).sum()
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
        assert_eq!(lens(&[MAX_CHUNK_BYTES]), [MAX_CHUNK_BYTES]);
        assert_eq!(lens(&[MAX_CHUNK_BYTES + 1]), [MAX_CHUNK_BYTES, 1]);
        assert_eq!(lens(&[1, 2 * MAX_CHUNK_BYTES + 5, 2]), [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 5, 3]);
        assert_eq!(lens(&[MAX_CHUNK_BYTES - 1, 1, 1]), [MAX_CHUNK_BYTES, 1]);
        assert_eq!(
            lens(&[MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1, 0, MAX_CHUNK_BYTES / 2]),
            [MAX_CHUNK_BYTES, 1, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES / 2]
        );
    }

    #[test]
    fn every_byte_of_every_file_is_in_exactly_one_chunk() {
        let sizes = [
            5,
            0,
            MAX_CHUNK_BYTES,
            3 * MAX_CHUNK_BYTES + 1,
            7,
            MAX_CHUNK_BYTES / 2,
            MAX_CHUNK_BYTES / 2 + 1,
            1,
        ];
        let mut covered = vec![0; sizes.len()];
        for part in chunks(&manifest(&sizes)).into_iter().flatten() {
            assert_eq!(part.offset, covered[part.entry], "in order and without a gap");
            covered[part.entry] += part.len;
        }
        assert_eq!(covered, sizes);
    }
}
