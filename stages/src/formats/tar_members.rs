//! The members of a tar archive, one after the other, as their headers and the extensions before them describe them. Headers
//! are read raw: no long name or extension is read into memory before its length was looked at. It does not know what
//! becomes of a member, nor which names are safe.
//!
//! Extensions: GNU's long names, and those of POSIX (pax), whose records say how long they are: a value may hold any
//! bytes, line breaks too (`LENGTH KEY=VALUE\n`, POSIX.1-2017, pax, "Extended Header").

use std::io::{self, Read};

use tar::{Archive, Entries, Entry, EntryType};

use crate::formats::file_kind;

/// The longest header extension: paths and a few fields.
const LONGEST_EXTENSION: u64 = 1 << 16;
/// Most extensions before one member: GNU's two, pax's own and global one, and room for odd writers.
const MAX_EXTENSIONS: usize = 64;
/// What may follow the end mark: writers fill up a block of records.
const LONGEST_TAIL: u64 = 1 << 20;

/// A member that is no extension.
pub struct Member<'a, R: Read> {
    /// Its path, as the archive spells it.
    pub path: Vec<u8>,
    /// The target of a link; empty for others.
    pub target: Vec<u8>,
    /// Bytes of its content.
    pub size: u64,
    /// What it is.
    pub kind: EntryType,
    /// Its content.
    pub content: Entry<'a, R>,
}

impl<R: Read> Member<'_, R> {
    /// Its path as a message may have it.
    pub fn shown(&self) -> String {
        shown(&self.path)
    }
}

/// The members of an archive; the iterator ends at the end mark, and [`check_end`] says what follows that.
///
/// # Errors
/// A sentence.
pub fn members<'a, R: Read>(archive: &'a mut Archive<R>) -> Result<Members<'a, R>, String> {
    Ok(Members { entries: archive.entries().map_err(|error| broken(&error))?.raw(true) })
}

/// An iterator over the members of an archive.
pub struct Members<'a, R: Read> {
    entries: Entries<'a, R>,
}

/// What extensions say of the member that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<'a, R: Read> Iterator for Members<'a, R> {
    type Item = Result<Member<'a, R>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut extended = Extended::default();
        for number in 0..=MAX_EXTENSIONS {
            let Some(entry) = self.entries.next() else {
                let problem = "ends after a header that belongs to a member which is not there";
                return (number > 0).then(|| Err(problem.to_owned()));
            };
            match entry.map_err(|error| broken(&error)).and_then(|entry| extended.take(entry)) {
                Ok(None) => {}
                Ok(Some(member)) => return Some(Ok(member)),
                Err(problem) => return Some(Err(problem)),
            }
        }
        Some(Err(format!("holds more than {MAX_EXTENSIONS} headers before one member: a trap")))
    }
}

impl Extended {
    /// Takes an extension, or makes a member of the entry that is none.
    fn take<'a, R: Read>(&mut self, mut entry: Entry<'a, R>) -> Result<Option<Member<'a, R>>, String> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => self.target = Some(long_name(&mut entry)?),
            EntryType::XHeader => self.extend(&extension(&mut entry)?)?,
            EntryType::XGlobalHeader => check_global(&extension(&mut entry)?)?,
            kind => {
                let path = self.path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let target = self.target.take();
                let target = target.or_else(|| entry.link_name_bytes().map(|bytes| bytes.into_owned()));
                let size = entry.header().entry_size().map_err(|error| broken(&error))?;
                if self.size.is_some_and(|said| said != size) {
                    let problem = "is larger than a tar header can say; pack it with `tar --format=gnu`";
                    return Err(format!("`{}` {problem}", shown(&path)));
                }
                return Ok(Some(Member {
                    path,
                    target: target.unwrap_or_default(),
                    size,
                    kind,
                    content: entry,
                }));
            }
        }
        Ok(None)
    }

    /// Takes the records of a pax header; an empty value takes back what was said before.
    fn extend(&mut self, bytes: &[u8]) -> Result<(), String> {
        let value = |value: &[u8]| (!value.is_empty()).then(|| value.to_owned());
        for record in PaxRecords(bytes) {
            match record? {
                (b"path", path) => self.path = value(path),
                (b"linkpath", target) => self.target = value(target),
                (b"size", b"") => self.size = None,
                (b"size", size) => {
                    let number = std::str::from_utf8(size).ok().and_then(|text| text.parse().ok());
                    self.size = Some(number.ok_or_else(|| "holds a size that is not a number".to_owned())?);
                }
                (key, _) if key.starts_with(b"GNU.sparse.") => {
                    return Err("holds a sparse file; pack it without --sparse".to_owned());
                }
                // Times, owners, attributes of other systems.
                _ => {}
            }
        }
        Ok(())
    }
}

/// What holds for all members must be none of what makes a member: comments, times, owners.
fn check_global(bytes: &[u8]) -> Result<(), String> {
    for record in PaxRecords(bytes) {
        let (key, _) = record?;
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            return Err(format!("gives all its members the same `{}`; pack it again", shown(key)));
        }
    }
    Ok(())
}

/// The records of a pax header: key and value.
struct PaxRecords<'a>(&'a [u8]);

impl<'a> Iterator for PaxRecords<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let record = || {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            Some((length, (&record[..equals], &record[equals + 1..])))
        };
        match record() {
            Some((length, record)) => {
                self.0 = &bytes[length..];
                Some(Ok(record))
            }
            None => {
                let start = shown(&bytes[..bytes.len().min(40)]);
                Some(Err(format!("holds a pax header whose record is not `LENGTH KEY=VALUE`: `{start}`")))
            }
        }
    }
}

fn extension(entry: &mut Entry<impl Read>) -> Result<Vec<u8>, String> {
    let size = entry.header().entry_size().map_err(|error| broken(&error))?;
    if size > LONGEST_EXTENSION {
        return Err(format!("holds a header of {size} bytes, which is absurdly long: a trap"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    if bytes.len() as u64 != size {
        return Err("ends within a header".to_owned());
    }
    Ok(bytes)
}

fn long_name(entry: &mut Entry<impl Read>) -> Result<Vec<u8>, String> {
    let mut name = extension(entry)?;
    // It ends in a zero byte, which is none of the name.
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Reads what follows the end mark to its very end, where gzip says whether all of it was right: zeros that fill up a
/// block, and nothing else.
///
/// # Errors
/// A sentence that says what follows.
pub fn check_end(content: impl Read) -> Result<(), String> {
    let mut content = content.take(LONGEST_TAIL + 1);
    let (mut buffer, mut length) = (vec![0; 1 << 16], 0);
    loop {
        let read = fill(&mut content, &mut buffer).map_err(|error| broken(&error))?;
        if let Some(at) = buffer[..read].iter().position(|byte| *byte != 0) {
            let head = &buffer[at..read];
            let what = match head.get(257..262) {
                Some(b"ustar") => {
                    let name = head[..100].split(|byte| *byte == 0).next().unwrap_or_default();
                    format!("another tar archive, whose first member is `{}`", shown(name))
                }
                _ => file_kind::beginning(head),
            };
            return Err(format!(
                "goes on after its end mark, where most programs stop, with {what}; pack all files into one archive"
            ));
        }
        length += read as u64;
        if length > LONGEST_TAIL {
            return Err("goes on after its end with more than 1 MiB of zeros: a trap".to_owned());
        }
        if read < buffer.len() {
            return Ok(());
        }
    }
}

/// Fills the buffer as far as there are bytes.
fn fill(content: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A sentence for an error of the archive's reader.
pub fn broken(error: &io::Error) -> String {
    format!("cannot be read as a tar archive: {error}")
}

fn shown(bytes: &[u8]) -> String {
    file_kind::shown(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Record<'a> = (&'a [u8], &'a [u8]);

    fn records(bytes: &[u8]) -> Result<Vec<Record<'_>>, String> {
        PaxRecords(bytes).collect()
    }

    #[test]
    fn records_are_as_long_as_they_say() {
        let plist = b"57 SCHILY.xattr.x=<plist>\n18 path=evil.png\n</plist>\nzzzz\n20 path=img/one.png\n";
        assert_eq!(plist[56], b'\n');
        let found = records(plist).unwrap();
        assert_eq!(found[0], (&b"SCHILY.xattr.x"[..], &b"<plist>\n18 path=evil.png\n</plist>\nzzzz"[..]));
        assert_eq!(found[1], (&b"path"[..], &b"img/one.png"[..]));
        let binary = b"16 key=\x01\x00\x00\x02\n\xff\x00=\n";
        assert_eq!(records(binary).unwrap(), [(&b"key"[..], &b"\x01\x00\x00\x02\n\xff\x00="[..])]);
        assert_eq!(records(b"6 k==\n").unwrap(), [(&b"k"[..], &b"="[..])]);
        for bad in
            [&b"x"[..], b"5 k=", b"99 k=v\n", b"0 k=v\n", b"6 k=vv\n", b"5 kv\n", b"-1 k=v\n", b"\0\0\0"]
        {
            assert!(records(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_but_zeros_may_follow_the_end() {
        assert!(check_end(&[0; 10240][..]).is_ok());
        assert!(check_end(&b""[..]).is_ok());
        let problem = check_end(&[&[0; 70_000][..], b"second\n"].concat()[..]).unwrap_err();
        assert!(problem.contains("`second`"), "{problem}");
        assert!(check_end(io::repeat(0)).unwrap_err().contains("a trap"));
    }
}
