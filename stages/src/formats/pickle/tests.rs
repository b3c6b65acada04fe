//! Against what Python writes, and what it would never write.

use super::*;

#[test]
fn reads_what_python_writes() {
    // pickle.dumps({'a': [1, -2, 3.5, None, True], b'b': ('é', 2**40), 'c': {}}, protocol=3)
    let three = b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00N\x88eC\x01bq\x03X\x02\x00\x00\x00\xc3\xa9q\x04\x8a\x06\x00\x00\x00\x00\x00\x01\x86q\x05X\x01\x00\x00\x00cq\x06}q\x07u.";
    let (pickle, length) = Pickle::read(three).unwrap();
    assert_eq!(length, three.len());
    let list = pickle.get(pickle.root(), "a").unwrap();
    let list: Vec<_> = pickle.items(list).unwrap().cloned().collect();
    let expected = [Value::Int(1), Value::Int(-2), Value::Float(3.5), Value::None, Value::Bool(true)];
    assert_eq!(list, expected);
    let tuple = pickle.get(pickle.root(), "b").unwrap();
    let tuple: Vec<_> = pickle.items(tuple).unwrap().cloned().collect();
    assert_eq!(tuple, [Value::Text("é"), Value::Int(1 << 40)]);
    assert_eq!(pickle.get(pickle.root(), "c"), Some(&Value::Dict(vec![])));
    assert_eq!(pickle.get(pickle.root(), "d"), None);
}

#[test]
fn nothing_is_imported_or_called() {
    // os.system("touch x"): protocols 1, 2 and 4.
    for bytes in [
        &b"cos\nsystem\n(U\x07touch xtR."[..],
        b"\x80\x02cposix\nsystem\nX\x07\0\0\0touch x\x85R.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x07touch x\x85R.",
    ] {
        let (pickle, _) = Pickle::read(bytes).unwrap();
        let Value::Object { callable, .. } = pickle.root() else { panic!("{:?}", pickle.root()) };
        assert!(matches!(pickle.value(*callable), Value::Global("os" | "posix", "system")));
    }
    // INST, OBJ, persistent ids, extension codes: data need none of them.
    for bytes in [&b"(ios\nsystem\n."[..], b"(o.", b"Pid\n.", b"\x82\x01."] {
        let error = Pickle::read(bytes).unwrap_err();
        assert!(error.contains("is not for data"), "{error}");
    }
}

#[test]
fn hostile_pickles_are_errors_or_small() {
    // Each list holds the one before it twice: 2^60 leaves if copied.
    let mut doubled = b"]q\x00".to_vec();
    for _ in 0..60 {
        doubled.extend_from_slice(b"0](h\x00h\x00eq\x00");
    }
    doubled.push(b'.');
    assert!(Pickle::read(&doubled).unwrap().0.values.len() < 100);
    // A million lists within each other, and a list within itself.
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999], vec![b'.']].concat();
    assert!(matches!(Pickle::read(&deep).unwrap().0.root(), Value::List(_)));
    assert!(Pickle::read(b"]q\x00h\x00a.").is_ok());
    for bad in [
        &b""[..],
        b".",
        b"(",
        b"]",
        b"K",
        b"]].",
        b"e.",
        b"(]e.",
        b"Na.",
        b"(Nd.",
        b"Ns.",
        b"h\x01.",
        b"Nb.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffx.",
        b"X\xff\xff\xff\xffx.",
        b"\x8a\x09123456789.",
        b"N(.",
        b"Ix\n.",
        b"Fx\n.",
        b"cos",
        b"\x93.",
        b"X\x01\0\0\0\xff.",
    ] {
        assert!(Pickle::read(bad).is_err(), "{bad:?}");
    }
}
