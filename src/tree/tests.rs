use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

const FILES: [(&str, &str); 5] =
    [("a/b/deep.txt", "1"), ("a/x.txt", "2"), ("a.txt", "3"), ("a-b/c", "4"), ("z", "")];

#[test]
fn the_digest_depends_on_paths_and_bytes_and_on_no_other_mode() {
    let one = folder(&FILES);
    let mut reversed = FILES;
    reversed.reverse();
    let two = folder(&reversed);
    fs::set_permissions(two.path().join("z"), fs::Permissions::from_mode(0o611)).unwrap();
    let digest = |f: &tempfile::TempDir| Manifest::of_folder(f.path()).unwrap().digest();
    assert_eq!(digest(&one), digest(&two));
    fs::write(two.path().join("a/x.txt"), "20").unwrap();
    assert_ne!(digest(&one), digest(&two));
    fs::write(two.path().join("a/x.txt"), "2").unwrap();
    assert_eq!(digest(&one), digest(&two));
    fs::create_dir(two.path().join("empty")).unwrap();
    assert_ne!(digest(&one), digest(&two), "an empty folder is part of a tree");
    fs::remove_dir(two.path().join("empty")).unwrap();
    fs::rename(two.path().join("z"), two.path().join("y")).unwrap();
    assert_ne!(digest(&one), digest(&two));
}

#[test]
fn a_path_within_a_tree_has_the_digest_of_its_content_alone() {
    let tree = folder(&FILES);
    let manifest = Manifest::of_folder(tree.path()).unwrap();
    let alone = |path| Manifest::of_folder(&tree.path().join(path)).unwrap().digest();
    assert_eq!(manifest.at("a"), Some(alone("a")));
    assert_eq!(manifest.at("a/b"), Some(alone("a/b")));
    assert_eq!(manifest.at("a/b/deep.txt"), Some(Digest::of_bytes(b"1")));
    assert_eq!(manifest.at("a.txt"), Some(Digest::of_bytes(b"3")));
    assert_eq!(manifest.at("a/nothing"), None);
    assert_eq!(manifest.at("b"), None);
    assert_eq!(manifest.top_level().keys().collect::<Vec<_>>(), ["a", "a-b", "a.txt", "z"]);
}

#[test]
fn an_empty_folder_within_is_found() {
    let tree = folder(&[("a/x", "1")]);
    fs::create_dir_all(tree.path().join("a/none")).unwrap();
    let manifest = Manifest::of_folder(tree.path()).unwrap();
    assert_eq!(manifest.at("a/none"), Some(Manifest::default().digest()));
}

#[test]
fn the_text_round_trips() {
    let tree = folder(&FILES);
    fs::create_dir(tree.path().join("with space")).unwrap();
    let manifest = Manifest::of_folder(tree.path()).unwrap();
    assert_eq!(Manifest::parse(&manifest.text()), Ok(manifest));
    assert!(Manifest::parse("nonsense\n").is_err());
}

#[test]
fn any_name_round_trips() {
    let names = [
        "end\r",
        "\r",
        "a\rb",
        "line\nbreak",
        "line\n",
        "\n",
        "back\\slash\nbreak",
        "back\\n",
        "tab\t",
        "esc\u{1b}[31m",
        "\u{85}",
        "\u{2028}",
        "quote\"",
        " ",
        "trailing ",
        "-",
        "x",
        "\u{e4}",
        "#",
    ];
    let files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "1")).collect();
    let tree = folder(&files);
    fs::create_dir(tree.path().join("empty\n")).unwrap();
    fs::create_dir(tree.path().join("empty\r")).unwrap();
    let manifest = Manifest::of_folder(tree.path()).unwrap();
    assert_eq!(manifest.entries().len(), names.len() + 2);
    assert_eq!(Manifest::parse(&manifest.text()).as_ref(), Ok(&manifest));
    assert_eq!(manifest.at("line\n"), Some(Digest::of_bytes(b"1")));
    assert_eq!(manifest.text().lines().filter(|line| line.contains(" 1q ")).count(), 4);
}

#[test]
fn a_name_that_is_not_utf_8_is_an_error_and_escaped() {
    use std::os::unix::ffi::OsStrExt;
    let tree = folder(&FILES);
    fs::write(tree.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9\r")), "1").unwrap();
    let error = Manifest::of_folder(tree.path()).unwrap_err().to_string();
    assert!(error.ends_with("caf\\xe9\\r: its name is not UTF-8; rename it"), "{error}");
}

#[test]
fn the_executable_bit_changes_only_the_digest_of_its_file() {
    let (plain, marked) = (folder(&FILES), folder(&FILES));
    fs::set_permissions(marked.path().join("a/x.txt"), fs::Permissions::from_mode(0o711)).unwrap();
    let [plain, marked] = [plain, marked].map(|folder| Manifest::of_folder(folder.path()).unwrap());
    // The digest before executable bits were introduced.
    assert_eq!(
        plain.digest().to_string(),
        "2af7a098fe7a59ef13ad65381484c6ab6f77ec94eedb7d2c04ecd7e502731a71"
    );
    assert_ne!(plain.digest(), marked.digest());
    assert_eq!(plain.at("a/x.txt"), Some(Digest::of_bytes(b"2")));
    assert_ne!(marked.at("a/x.txt"), plain.at("a/x.txt"), "readers of the file run again");
    assert_ne!(marked.at("a"), plain.at("a"));
    assert_eq!(marked.at("a/b/deep.txt"), plain.at("a/b/deep.txt"));
    assert_eq!(Manifest::parse(&marked.text()).as_ref(), Ok(&marked));
    assert!(marked.text().contains(" 1x a/x.txt\n"), "{}", marked.text());
}

#[test]
fn an_impossible_manifest_is_an_error() {
    let digest = Digest::of_bytes(b"1");
    let line = |size: &str, path: &str| format!("{digest} {size} {path}\n");
    for path in ["../a", "/etc/a", "a/../../b", ".", "a/./b", "a//b", "", "a/\0"] {
        let problem = Manifest::parse(&line("1", path)).unwrap_err();
        assert!(problem.contains("outside of the tree"), "{path}: {problem}");
    }
    assert!(Manifest::parse("- 0 ../a/\n").unwrap_err().contains("outside of the tree"));
    let half = (u64::MAX / 2 + 1).to_string();
    let problem = Manifest::parse(&(line(&half, "a") + &line(&half, "b"))).unwrap_err();
    assert_eq!(problem, "its files are larger than any disk");
    assert_eq!(Manifest::parse(&line(&u64::MAX.to_string(), "a")).unwrap().bytes(), u64::MAX);
    for (text, why) in [
        (line("1", "b") + &line("1", "a"), "out of order"),
        (line("1", "a") + &line("1", "a"), "twice"),
        (line("+1", "a"), "another spelling of a number"),
        (line("18446744073709551616", "a"), "more than 64 bits"),
        (line("1q", "a"), "a path marked with `q` but without a line break"),
        (line("1q", "a\\b"), "half an escape"),
        (line("1", "a/"), "a folder with bytes"),
        ("- 3 a/\n".to_owned(), "a folder with bytes"),
        ("- 0x a/\n".to_owned(), "a folder to execute"),
        ("- 0 a\n".to_owned(), "a file without bytes"),
    ] {
        assert!(Manifest::parse(&text).is_err(), "{why}");
    }
}

#[test]
fn many_files_hash_like_few() {
    let files: Vec<(String, String)> =
        (0..300).map(|i| (format!("d{}/f{i}", i % 7), i.to_string())).collect();
    let borrowed: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let tree = folder(&borrowed);
    let parallel = Manifest::of_folder(tree.path()).unwrap();
    let serial = Manifest::of_folder_with(tree.path(), |path, _| Digest::of_file(path)).unwrap();
    assert_eq!(parallel, serial);
    assert_eq!(parallel.entries().len(), 300);
}

#[cfg(unix)]
#[test]
fn a_link_is_an_error_with_its_name() {
    let tree = folder(&FILES);
    std::os::unix::fs::symlink("z", tree.path().join("link")).unwrap();
    let error = Manifest::of_folder(tree.path()).unwrap_err().to_string();
    assert!(error.contains("link: it is a symbolic link"), "{error}");
}
