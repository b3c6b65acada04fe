//! JPEG files that mean harm, in an archive whose pictures are decoded: small files that ask for gigabytes or hours, impossible
//! tables, data that run over the end of a block. The stage drops them, or keeps those that decode.

use std::fs;
use std::path::Path;
use std::time::Instant;

use stage_api::testing::run_stage;

use super::forge::{file, zip};

/// A segment: its marker and its data.
fn segment(kind: u8, data: &[u8]) -> Vec<u8> {
    [&[0xff, kind][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
}

fn frame(kind: u8, side: u16, components: &[[u8; 3]]) -> Vec<u8> {
    let side = side.to_be_bytes();
    segment(
        kind,
        &[&[8, side[0], side[1], side[0], side[1], components.len() as u8], &components.concat()[..]]
            .concat(),
    )
}

/// A code of one bit for each of two symbols.
fn code(class: u8, symbols: [u8; 2]) -> Vec<u8> {
    segment(0xc4, &[&[class, 2][..], &[0; 15], &symbols].concat())
}

fn scan(components: &[u8], band: [u8; 3], data: &[u8]) -> Vec<u8> {
    let entries: Vec<u8> = components.iter().flat_map(|id| [*id, 0]).collect();
    let header = [&[components.len() as u8][..], &entries, &band].concat();
    [segment(0xda, &header), data.to_vec()].concat()
}

fn jpeg(segments: &[Vec<u8>]) -> Vec<u8> {
    let steps = segment(0xdb, &[&[0][..], &[255; 64]].concat());
    [&[0xff, 0xd8][..], &steps, &segments.concat(), &[0xff, 0xd9]].concat()
}

/// Name, bytes, and whether they are dropped.
fn corpus() -> Vec<(&'static str, Vec<u8>, bool)> {
    const THREE: [[u8; 3]; 3] = [[1, 0x11, 0], [2, 0x11, 0], [3, 0x11, 0]];
    const ONE: [[u8; 3]; 1] = [[1, 0x11, 0]];
    let (dc, ac) = (code(0, [0, 15]), code(0x10, [0xef, 0xff]));
    let ends = code(0x10, [0xe0, 0xd0]);
    let all = [0, 63, 0];
    let scans = |count: usize, band: [u8; 3], data: &[u8]| vec![scan(&[1], band, data); count].concat();
    let full = segment(0xc4, &[&[0, 3][..], &[0; 15], &[1, 2, 3]].concat());
    let wide = segment(0xc4, &[&[0][..], &[255; 16], &[1; 4080]].concat());
    vec![
        (
            "much-memory",
            jpeg(&[frame(0xc0, 20_000, &THREE), dc.clone(), ac.clone(), scan(&[1, 2, 3], all, &[0; 900])]),
            true,
        ),
        (
            "much-memory-long",
            jpeg(&[frame(0xc2, 20_000, &THREE), dc.clone(), scan(&[1], [0; 3], &vec![0; 900_000])]),
            true,
        ),
        (
            "many-scans",
            jpeg(&[frame(0xc2, 2000, &ONE), ends.clone(), scans(4000, [1, 63, 0], &[0xff, 0])]),
            true,
        ),
        ("long-runs", jpeg(&[frame(0xc2, 3000, &ONE), ends, scans(99, [1, 63, 0x10], &[0x7f; 3000])]), false),
        (
            "over-the-end",
            jpeg(&[frame(0xc0, 800, &ONE), dc.clone(), ac.clone(), scan(&[1], all, &[0xaa; 9000])]),
            false,
        ),
        (
            "over-the-end-with-restarts",
            {
                let data: Vec<u8> =
                    (0..3000_u16).flat_map(|at| [0xaa, 0xff, 0xd0 + (at * at % 8) as u8]).collect();
                jpeg(&[
                    frame(0xc0, 800, &ONE),
                    segment(0xdd, &[0, 1]),
                    dc.clone(),
                    ac.clone(),
                    scan(&[1], all, &data),
                ])
            },
            false,
        ),
        (
            "more-codes-than-bits",
            jpeg(&[frame(0xc0, 8, &ONE), full, ac.clone(), scan(&[1], all, &[0])]),
            true,
        ),
        (
            "more-codes-than-symbols",
            jpeg(&[frame(0xc0, 8, &ONE), wide, ac.clone(), scan(&[1], all, &[0])]),
            true,
        ),
        ("no-tables", jpeg(&[frame(0xc0, 8, &ONE), scan(&[1], all, &[0])]), true),
        ("arithmetic", jpeg(&[frame(0xc9, 8, &ONE), scan(&[1], all, &[0])]), true),
        (
            "twice-in-a-scan",
            jpeg(&[frame(0xc0, 8, &THREE), dc.clone(), ac.clone(), scan(&[1, 1], all, &[0])]),
            true,
        ),
        (
            "large-mcu",
            jpeg(&[
                frame(0xc0, 64, &[[1, 0x44, 0], [2, 0x11, 0], [3, 0x11, 0]]),
                dc,
                ac,
                scan(&[1, 2, 3], all, &[0]),
            ]),
            true,
        ),
    ]
}

#[test]
fn hostile_pictures_come_to_an_end() {
    let good =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/progressive.jpg"))
            .unwrap();
    let corpus = corpus();
    let ids: Vec<String> = (3..3 + corpus.len()).map(|id| id.to_string()).collect();
    let entry = |id: &str| format!("\"{id}\":{{\"tweet_text\":\"t\",\"labels\":[0,0,0]}}");
    let truth: Vec<String> =
        ["1", "2"].into_iter().chain(ids.iter().map(String::as_str)).map(entry).collect();
    let mut members = vec![
        file("MMHS150K_GT.json", format!("{{{}}}", truth.join(",")).as_bytes()),
        file("splits/train_ids.txt", ids.join("\n").as_bytes()),
        file("splits/val_ids.txt", b"1"),
        file("splits/test_ids.txt", b"2"),
        file("img_resized/1.jpg", &good),
        file("img_resized/2.jpg", &good),
    ];
    members.extend(
        ids.iter().zip(&corpus).map(|(id, (_, bytes, _))| file(format!("img_resized/{id}.jpg"), bytes)),
    );
    let dir = tempfile::tempdir().unwrap();
    let (archive, out) = (dir.path().join("archive.zip"), dir.path().join("out"));
    fs::write(&archive, zip(&members)).unwrap();
    let registry = stages::registry();
    let (before, begin) = (super::most_memory(), Instant::now());
    run_stage(
        registry.get("index-mmhs").unwrap(),
        r#"(pictures: "decode", max_dropped: 1)"#,
        &[("archive", &archive)],
        &out,
    )
    .unwrap();
    let (grown, seconds) = (super::most_memory().saturating_sub(before), begin.elapsed().as_secs());
    assert!(grown < 160 << 20, "{grown} bytes of memory");
    assert!(seconds < 60, "{seconds} s");
    for (id, (name, _, is_dropped)) in ids.iter().zip(&corpus) {
        assert_eq!(!out.join(format!("images/{id}.jpg")).exists(), *is_dropped, "{name}");
    }
}
