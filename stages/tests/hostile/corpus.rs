//! The hostile archives: a name, its bytes, the params of its step, and what is to become of it.

use super::forge::*;

/// What is to become of an archive.
pub enum Fate {
    /// It is refused with these words.
    Refused(&'static str),
    /// A person is asked, with these words.
    Asked(&'static str),
    /// It becomes exactly these files.
    Files(&'static [(&'static str, &'static str)]),
}

use Fate::{Asked, Files, Refused};

/// One case.
pub type Case = (&'static str, Vec<u8>, &'static str, Fate);

const OUT: &str = "leads out of the archive";
const LINK_OUT: &str = "is a link that leads out of the archive";
const ONE_NAME: &str = "which are one name on some systems";
const NO_FILE: &str = "which is not a file of the archive";

fn named(name: impl AsRef<[u8]>) -> Vec<u8> {
    zip(&[file("good.txt", b"good"), file(name, b"evil")])
}

/// A zip of MS-DOS or Windows, whose names have `\` between their parts.
fn windows(name: &str) -> Vec<u8> {
    let mut bytes = zip(&[file(name, b"good")]);
    let entry = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    // The system it was made on, and attributes of that system.
    bytes[entry + 5] = 0;
    bytes[entry + 38..entry + 42].fill(0);
    bytes
}

fn tarred(name: &[u8]) -> Vec<u8> {
    tar(&[plain("good.txt", b"good"), plain(name, b"evil")])
}

/// All of them.
pub fn corpus() -> Vec<Case> {
    [names(), links(), zip_bombs(), zip_forgeries(), tar_members(), tar_forgeries()]
        .into_iter()
        .flatten()
        .collect()
}

fn names() -> Vec<Case> {
    let deep = "d/".repeat(40) + "f";
    let two = |a: &str, b: &str| zip(&[file(a, b"1"), file(b, b"2")]);
    vec![
        ("zip-parent", named("../evil"), "()", Refused(OUT)),
        ("zip-parent-within", named("a/../../evil"), "()", Refused(OUT)),
        ("zip-parent-behind-dot", named("./../evil"), "()", Refused(OUT)),
        ("zip-only-parent", named(".."), "()", Refused(OUT)),
        ("zip-absolute", named("/tmp/evil"), "()", Refused("absolute path")),
        ("zip-backslash", named("..\\evil"), "()", Refused("holds `\\`")),
        ("zip-drive", named("c:evil"), "()", Refused("holds `\\`, `:`")),
        ("zip-zero-byte", named("good.txt\0.png"), "()", Refused("control character")),
        ("zip-line-break", named("a\nb"), "()", Refused("control character")),
        ("zip-escape-sequence", named("\u{1b}[2Jevil"), "()", Refused("control character")),
        ("zip-no-name", named(""), "()", Refused("")),
        ("zip-empty-part", named("a//b"), "()", Refused("empty part")),
        ("zip-dot-within", named("a/./b"), "()", Refused("empty part")),
        ("zip-not-utf8", named(b"caf\xe9"), "()", Refused("not UTF-8")),
        ("zip-long-part", named("x".repeat(300)), "()", Refused("too long")),
        ("zip-long-path", named("xy/".repeat(600) + "z"), "()", Refused("too long")),
        ("zip-deep", named(deep), "()", Refused("too deep")),
        ("zip-twice", two("a", "a"), "()", Refused("twice")),
        ("zip-twice-by-case", two("img/A.png", "img/a.png"), "()", Refused(ONE_NAME)),
        ("zip-twice-by-folder-case", two("IMG/a.png", "img/b.png"), "()", Refused(ONE_NAME)),
        ("zip-twice-by-composition", two("caf\u{e9}", "cafe\u{301}"), "()", Refused(ONE_NAME)),
        ("zip-file-and-folder", two("a", "a/b"), "()", Refused("`a` twice")),
        ("zip-folder-and-file", two("a/b", "a"), "()", Refused("`a` twice")),
        ("zip-windows", windows("d\\e\\good.txt"), "()", Files(&[("d/e/good.txt", "good")])),
        ("zip-windows-parent", windows("..\\evil"), "()", Refused(OUT)),
        ("zip-windows-drive", windows("c:\\evil"), "()", Refused("holds `\\`, `:`")),
        ("zip-dot-name-twice", two("a", "./a"), "()", Refused("`a` twice")),
    ]
}

fn links() -> Vec<Case> {
    let with = |member: Member| zip(&[file("d/good.txt", b"good"), member]);
    let device = |mode: u32| with(Member { mode, ..file("d/node", b"") });
    vec![
        ("zip-link-out", with(link("d/l", "../../evil")), "()", Refused(LINK_OUT)),
        ("zip-link-absolute", with(link("d/l", "/etc/passwd")), "()", Refused(LINK_OUT)),
        ("zip-link-to-folder", with(link("l", "d")), "()", Refused(NO_FILE)),
        ("zip-link-to-nothing", with(link("l", "x")), "()", Refused(NO_FILE)),
        ("zip-link-to-itself", with(link("l", "l")), "()", Refused(NO_FILE)),
        ("zip-through-link", zip(&[link("l", "."), file("l/evil", b"evil")]), "()", Refused("twice")),
        (
            "zip-link-within",
            with(link("d/l", "../d/good.txt")),
            "()",
            Files(&[("d/good.txt", "good"), ("d/l", "good")]),
        ),
        ("zip-character-device", device(0o020_666), "()", Refused("device")),
        ("zip-block-device", device(0o060_666), "()", Refused("device")),
        ("zip-pipe", device(0o010_666), "()", Refused("pipe")),
        ("zip-socket", device(0o140_666), "()", Refused("socket")),
        ("zip-folder-with-content", with(file("e/", b"evil")), "()", Refused("folder with content")),
    ]
}

fn zip_bombs() -> Vec<Case> {
    let first = file("a", b"first");
    let over = |name: &str| Member { at: Some(0), ..file(name, b"first") };
    let many: Vec<Member> = (0..50).map(|number| file(number.to_string(), b"")).collect();
    let copies: Vec<Member> = std::iter::once(file("a", &[b'x'; 1000]))
        .chain((0..20).map(|number| link(&format!("l{number}"), "a")))
        .collect();
    vec![
        ("zip-ratio", zip(&[zeros("a", 80 << 20)]), "()", Refused("most_ratio")),
        ("zip-bytes", zip(&[file("a", &[b'x'; 3000])]), "(most_bytes: 2000)", Refused("most_bytes")),
        ("zip-files", zip(&many), "(most_files: 49)", Refused("most_files")),
        ("zip-links-as-copies", zip(&copies), "(most_bytes: 9000)", Refused("most_bytes")),
        ("zip-over-each-other", zip(&[first, over("b"), over("c")]), "()", Refused("lie over each other")),
        (
            "zip-says-4-gib",
            zip(&[Member { size: u32::MAX - 1, ..file("a", b"x") }]),
            "()",
            Refused("most_ratio"),
        ),
        (
            "zip-larger-than-it-says",
            zip(&[Member { size: 10, ..zeros("a", 300 << 20) }]),
            "()",
            Refused("larger than"),
        ),
    ]
}

fn zip_forgeries() -> Vec<Case> {
    let whole = zip(&[file("a", &[b'x'; 5000])]);
    let mut cut = whole.clone();
    cut.truncate(whole.len() / 2);
    let mut entries = whole.clone();
    let end = entries.len() - 22;
    entries[end + 8..end + 12].fill(0xff);
    let mut directory = whole.clone();
    directory[end + 16..end + 20].fill(0xfe);
    vec![
        ("zip-smaller-than-it-says", zip(&[Member { size: 4000, ..zeros("a", 2000) }]), "()", Refused("")),
        ("zip-crc", zip(&[Member { crc: 1, ..file("a", b"x") }]), "()", Refused("damaged")),
        ("zip-method", zip(&[Member { method: 99, ..file("a", b"x") }]), "()", Refused("")),
        (
            "zip-bzip2",
            zip(&[Member { method: 12, ..file("a", b"x") }]),
            "()",
            Refused("`a` is packed with bzip2"),
        ),
        ("zip-deflate-noise", zip(&[Member { method: 8, ..file("a", &[0xff; 100]) }]), "()", Refused("")),
        ("zip-cut", cut, "()", Refused("has no end")),
        ("zip-more-entries-than-there-are", entries, "()", Refused("zip archive")),
        ("zip-directory-elsewhere", directory, "()", Refused("zip archive")),
        (
            "zip-after-zip",
            [zip(&[file("a", b"1")]), zip(&[file("b", b"2")])].concat(),
            "()",
            Refused("another zip"),
        ),
        ("zip-before-text", [whole.clone(), b"lost\n".to_vec()].concat(), "()", Refused("with `lost`")),
        (
            "zip-before-cut-zip",
            [zip(&[file("a", b"1")]), zip(&[file("b", b"2")])[..40].to_vec()].concat(),
            "()",
            Refused("after its end"),
        ),
        (
            "zip-behind-program",
            [b"#!/bin/sh\nexit 0\n".to_vec(), zip(&[file("a", b"1")])].concat(),
            "()",
            Files(&[("a", "1")]),
        ),
        ("zip-filled-up", [zip(&[file("a", b"1")]), vec![0; 5000]].concat(), "()", Files(&[("a", "1")])),
        ("zip-at-nowhere", zip(&[Member { at: Some(9_000_000), ..file("a", b"x") }]), "()", Refused("")),
        ("empty", Vec::new(), "()", Refused("empty")),
        (
            "git-lfs-pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 77\n".to_vec(),
            "()",
            Refused("Git LFS pointer to 77 bytes"),
        ),
        ("rar", b"Rar!\x1a\x07\x01\x00".repeat(80), "()", Refused("is a RAR archive")),
        (
            "web-page",
            b"<!doctype html><p>Please log in".to_vec(),
            "()",
            Refused("is a web page (`Please log in`)"),
        ),
        ("noise-like-zip", [b"PK\x03\x04".as_slice(), &[0x41; 3000]].concat(), "()", Refused("zip archive")),
    ]
}

fn tar_members() -> Vec<Case> {
    let good = || plain("d/good.txt", b"good");
    let with = |more: Vec<Vec<u8>>| tar(&[vec![good()], more].concat());
    let kind = |kind: u8, target: &[u8]| with(vec![member(kind, b"d/x", target, None, b"")]);
    let through = vec![member(b'2', b"l", b"/tmp", None, b""), plain("l/evil", b"evil")];
    let loops = vec![member(b'2', b"a", b"b", None, b""), member(b'2', b"b", b"a", None, b"")];
    vec![
        ("tar-parent", tarred(b"../evil"), "()", Refused(OUT)),
        ("tar-absolute", tarred(b"/tmp/evil"), "()", Refused("absolute path")),
        ("tar-not-utf8", tarred(b"caf\xe9"), "()", Refused("not UTF-8")),
        ("tar-twice", tarred(b"good.txt"), "()", Refused("twice")),
        ("tar-link-absolute", kind(b'2', b"/etc/passwd"), "()", Refused(LINK_OUT)),
        ("tar-link-out", kind(b'2', b"../../evil"), "()", Refused(LINK_OUT)),
        ("tar-through-link", with(through), "()", Refused(LINK_OUT)),
        ("tar-links-in-a-loop", with(loops), "()", Refused(NO_FILE)),
        ("tar-hard-link-absolute", kind(b'1', b"/etc/passwd"), "()", Refused("absolute path")),
        ("tar-hard-link-out", kind(b'1', b"../evil"), "()", Refused(OUT)),
        ("tar-hard-link-to-itself", kind(b'1', b"d/x"), "()", Refused(NO_FILE)),
        (
            "tar-links-within",
            with(vec![
                member(b'1', b"h", b"d/good.txt", None, b""),
                member(b'2', b"d/s", b"good.txt", None, b""),
            ]),
            "()",
            Files(&[("d/good.txt", "good"), ("d/s", "good"), ("h", "good")]),
        ),
        ("tar-character-device", kind(b'3', b""), "()", Refused("device")),
        ("tar-block-device", kind(b'4', b""), "()", Refused("device")),
        ("tar-pipe", kind(b'6', b""), "()", Refused("pipe")),
        ("tar-sparse", kind(b'S', b""), "()", Refused("sparse")),
        ("tar-unknown-kind", kind(b'Q', b""), "()", Refused("kind that is not known")),
        ("tar-pax-parent", with(vec![pax("path", b"../evil"), plain("x", b"evil")]), "()", Refused(OUT)),
        (
            "tar-pax-sparse",
            with(vec![pax("GNU.sparse.major", b"1"), plain("x", b"")]),
            "()",
            Refused("sparse"),
        ),
        (
            "tar-pax-size",
            with(vec![pax("size", b"9"), plain("x", b"evil")]),
            "()",
            Refused("larger than a tar header"),
        ),
        (
            "tar-pax-line-breaks",
            with(vec![
                pax("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x02\n\0=\n\n"),
                plain("x", b"one"),
                pax("LIBARCHIVE.xattr.com.apple.metadata", b"<plist>\n18 path=../evil\n</plist>"),
                pax("path", b"d/long"),
                plain("y", b"two"),
            ]),
            "()",
            Files(&[("d/good.txt", "good"), ("d/long", "two"), ("x", "one")]),
        ),
        (
            "tar-pax-global",
            with(vec![global("comment", b"a\nb"), plain("x", b"one")]),
            "()",
            Files(&[("d/good.txt", "good"), ("x", "one")]),
        ),
        (
            "tar-pax-global-path",
            with(vec![global("path", b"y"), plain("x", b"one")]),
            "()",
            Refused("all its members the same `path`"),
        ),
        (
            "tar-pax-malformed",
            with(vec![member(b'x', b"pax", b"", None, b"99 path=a\n"), plain("x", b"one")]),
            "()",
            Refused("LENGTH KEY=VALUE"),
        ),
        (
            "tar-pax-size-no-number",
            with(vec![pax("size", b"x"), plain("x", b"")]),
            "()",
            Refused("not a number"),
        ),
        (
            "tar-long-name-parent",
            with(vec![member(b'L', b"././@LongLink", b"", None, b"../evil\0"), plain("x", b"evil")]),
            "()",
            Refused(OUT),
        ),
        ("tar-gz-parent", gzip(&tarred(b"../evil")), "()", Refused(OUT)),
    ]
}

fn tar_forgeries() -> Vec<Case> {
    let whole_tar = |name: &str| tar(&[plain(name, name.as_bytes())]);
    let good = plain("good.txt", b"good");
    let whole = gzip(&tar(&[plain("a", &[b'x'; 5000])]));
    let (mut cut, mut sum) = (whole.clone(), whole.clone());
    cut.truncate(whole.len() / 2);
    let place = sum.len() - 6;
    sum[place] ^= 1;
    let mut checksum = tar(std::slice::from_ref(&good));
    checksum[0] = b'b';
    let header = |kind, size| member(kind, b"x", b"", Some(size), b"");
    let flood: Vec<Vec<u8>> = (0..100).map(|_| pax("comment", b"x")).collect();
    vec![
        ("tar-checksum", checksum, "()", Refused("checksum")),
        ("tar-cut", tar(&[plain("a", &[b'x'; 5000])])[..2000].to_vec(), "()", Refused("")),
        ("tar-size-beyond-all", header(b'0', 1 << 60), "()", Refused("")),
        ("tar-size-largest", header(b'0', u64::MAX), "()", Refused("")),
        ("tar-gz-cut", cut, "()", Refused("")),
        ("tar-gz-sum", sum, "()", Refused("cannot be read")),
        ("gz-of-something-else", gzip(&[b'x'; 5000]), "()", Refused("cannot be read as a tar archive")),
        ("tar-gz-ratio", gzip_zeros(&header(b'0', 100 << 20), 100 << 20), "()", Refused("most_ratio")),
        ("tar-gz-long-name", gzip_zeros(&header(b'L', 300 << 20), 300 << 20), "()", Refused("absurdly long")),
        ("tar-gz-long-pax", gzip_zeros(&header(b'x', 300 << 20), 300 << 20), "()", Refused("absurdly long")),
        (
            "tar-gz-long-global",
            gzip_zeros(&header(b'g', 300 << 20), 300 << 20),
            "()",
            Refused("absurdly long"),
        ),
        ("tar-gz-no-end", gzip_zeros(&tar(&[good]), 300 << 20), "()", Refused("goes on after its end")),
        ("tar-headers-alone", tar(&flood), "()", Refused("headers before one member")),
        ("tar-noise-after-gzip", [gzip(&tar(&[])), vec![7; 100]].concat(), "()", Refused("cannot be read")),
        ("tar-after-tar", [whole_tar("a"), whole_tar("b")].concat(), "()", Refused("first member is `b`")),
        (
            "tar-gz-after-tar-gz",
            [gzip(&whole_tar("a")), gzip(&whole_tar("b"))].concat(),
            "()",
            Refused("first member is `b`"),
        ),
        ("tar-text-after-end", [whole_tar("a"), b"lost\n".to_vec()].concat(), "()", Refused("with `lost`")),
        (
            "tar-after-one-empty-block",
            [plain("a", b"1"), vec![0; 512], plain("b", b"2"), vec![0; 1024]].concat(),
            "()",
            Refused("first member is `b`"),
        ),
        ("tar-filled-up", [whole_tar("a"), vec![0; 9216]].concat(), "()", Files(&[("a", "a")])),
        ("tar-header-of-nothing", tar(&[pax("path", b"a")]), "()", Refused("a member which is not there")),
        (
            "password-variable-elsewhere",
            zip(&[]),
            "(password: \"PATH\")",
            Refused("does not begin with REPRO_"),
        ),
        ("encrypted", super::honest::encrypted("one"), "()", Asked("is encrypted")),
        (
            "encrypted-otherwise",
            super::honest::encrypted("one"),
            "(password: \"REPRO_TWO\")",
            Asked("REPRO_TWO_FILE"),
        ),
    ]
}
