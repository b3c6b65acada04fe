//! Which settings are applied, refused or reported.

use super::*;

fn apply_text(text: &str, config: &mut Config) -> Result<Report, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("settings.yaml");
    std::fs::write(&file, text).unwrap();
    apply(&file, config)
}

#[test]
fn the_stand_in_for_them_says_everything() {
    let text = crate::acquire::stand_in::settings(&Config::x152());
    let mut config = Config { blocks: vec![1; 4], groups: 1, classes: 2, ..Config::x152() };
    config.proposals.before_nms = 7;
    assert_eq!(apply_text(&text, &mut config).unwrap(), Report::default());
    assert_eq!(config, Config::x152());
}

#[test]
fn a_file_of_the_original_s_form_says_the_dimensions() {
    // An X-101 with a narrower pyramid, as the siblings of the published file are written.
    let text = "MODEL:\n  META_ARCHITECTURE: \"GeneralizedRCNN\"\n  BACKBONE:\n    CONV_BODY: \"R-101-FPN\"\n    OUT_CHANNELS: 256\n  \
        RPN:\n    USE_FPN: True\n    ANCHOR_STRIDE: (4, 8, 16, 32, 64)\n    ANCHOR_SIZES: (16, 32, 64, 128, 256,)\n    \
        PRE_NMS_TOP_N_TEST: 1000\n    FPN_POST_NMS_TOP_N_TEST: 1000\n  ROI_BOX_HEAD:\n    NUM_CLASSES: 1601\n    \
        POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)\n    MLP_HEAD_DIM: 1024\n  RESNETS:\n    STRIDE_IN_1X1: False\n    \
        NUM_GROUPS: 32\n    WIDTH_PER_GROUP: 8\nDATALOADER:\n  SIZE_DIVISIBILITY: 32\n";
    let mut config = Config::x152();
    let Report { silent, unknown, .. } = apply_text(text, &mut config).unwrap();
    assert_eq!(unknown, [""; 0]);
    let expected = Config {
        blocks: vec![3, 4, 23, 3],
        pyramid_width: 256,
        head_width: 1024,
        anchor_sizes: vec![16.0, 32.0, 64.0, 128.0, 256.0],
        proposals: crate::models::faster_rcnn::config::Proposals {
            before_nms: 1000,
            over_levels: 1000,
            ..Config::x152().proposals
        },
        ..Config::x152()
    };
    assert_eq!(config, expected);
    for name in ["POST_NMS_TOP_N_TEST", "NMS_THRESH", "ASPECT_RATIOS"] {
        assert!(silent.contains(&name), "{silent:?}");
    }
    assert!(!silent.contains(&"NUM_GROUPS"));
}

#[test]
fn what_a_picture_s_canvas_and_its_regions_depend_on_is_applied() {
    let text = "INPUT:\n  MIN_SIZE_TRAIN: (600,)\n  MIN_SIZE_TEST: 600\n  MAX_SIZE_TEST: 1000\n  \
        PIXEL_MEAN: (103.53, 116.28, 123.)\n  PIXEL_STD: [1., 1., 1.]\n  TO_BGR255: True\n\
        DATALOADER:\n  SIZE_DIVISIBILITY: 64\nMODEL:\n  ROI_HEADS:\n    NMS: 0.3\n";
    let mut config = Config::x152();
    let differing = apply_text(text, &mut config).unwrap().differing;
    let expected = Config {
        min_size: 600,
        max_size: 1000,
        size_divisor: 64,
        means_bgr: [103.53, 116.28, 123.0],
        class_nms: 0.3,
        ..Config::x152()
    };
    assert_eq!(config, expected);
    assert_eq!(
        differing,
        [
            "INPUT.MIN_SIZE_TEST is 600, not 800",
            "INPUT.MAX_SIZE_TEST is 1000, not 1333",
            "DATALOADER.SIZE_DIVISIBILITY is 64, not 32",
            "INPUT.PIXEL_MEAN is [103.53, 116.28, 123.0], not [102.9801, 115.9465, 122.7717]",
            "MODEL.ROI_HEADS.NMS is 0.3, not 0.5",
        ]
    );
    // The same values as MMF's extraction has are nothing to report.
    let same = "INPUT:\n  MIN_SIZE_TEST: 800\n  MAX_SIZE_TEST: 1333\n  PIXEL_MEAN: [102.9801, 115.9465, 122.7717]\n\
        DATALOADER:\n  SIZE_DIVISIBILITY: 32\nMODEL:\n  ROI_HEADS:\n    NMS: 0.5\n";
    let mut config = Config::x152();
    assert_eq!(apply_text(same, &mut config).unwrap().differing, [""; 0]);
    assert_eq!(config, Config::x152());
}

#[test]
fn a_value_that_the_detector_does_not_have_is_refused_by_name() {
    for (path, found, only) in [
        ("INPUT.PIXEL_STD", "[57.375,57.12,58.395]", "[1.0, 1.0, 1.0]"),
        ("INPUT.PIXEL_STD", "(57.375, 57.12, 58.395)", "[1.0, 1.0, 1.0]"),
        ("MODEL.PIXEL_STD", "[2.0,2.0,2.0]", "[1.0, 1.0, 1.0]"),
        ("INPUT.TO_BGR255", "false", "True"),
        ("INPUT.FORMAT", "RGB", "BGR"),
        ("MODEL.META_ARCHITECTURE", "AttrRCNN", "GeneralizedRCNN"),
        ("MODEL.RPN_ONLY", "true", "False"),
        ("MODEL.FPN.USE_RELU", "true", "False"),
        ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN", "BottleneckWithFixedBatchNorm"),
        ("MODEL.RESNETS.RES5_DILATION", "2", "1"),
        ("MODEL.RPN.MIN_SIZE", "16", "0"),
        ("MODEL.RPN.USE_FPN", "false", "True"),
        ("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPNXconv1fcFeatureExtractor", "FPN2MLPFeatureExtractor"),
    ] {
        let parts: Vec<&str> = path.split('.').collect();
        let mut text = String::new();
        for (depth, part) in parts.iter().enumerate() {
            text +=
                &format!("{}{part}:{}", "  ".repeat(depth), if depth + 1 < parts.len() { "\n" } else { "" });
        }
        let refused = apply_text(&format!("{text} {found}\n"), &mut Config::x152()).unwrap_err();
        assert!(refused.starts_with(&format!("{path} is `")), "{refused}");
        assert!(refused.ends_with(&format!("; only `{only}` is supported")), "{refused}");
        if !found.starts_with('(') {
            assert!(refused.contains(&format!("`{found}`")), "{refused}");
        }
    }
}

#[test]
fn what_is_not_applied_is_named() {
    let text = "MODEL:\n  ROI_HEADS:\n    SCORE_THRESH: 0.2\n    DETECTIONS_PER_IMG: 600\n    NMS_FILTER: 1\n\
        INPUT:\n  MIN_SIZE_TSET: 600\n  MAX_SIZE_TRAIN: 1000\nSOLVER:\n  BASE_LR: 0.005\nTEST:\n  IMS_PER_BATCH: 1\n";
    let mut config = Config::x152();
    let mut report = apply_text(text, &mut config).unwrap();
    report.unknown.sort();
    report.unused.sort();
    assert_eq!(report.unknown, ["INPUT.MIN_SIZE_TSET", "MODEL.ROI_HEADS.NMS_FILTER"]);
    assert_eq!(report.unused, ["MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "MODEL.ROI_HEADS.SCORE_THRESH"]);
    assert_eq!(config, Config::x152());
}

#[test]
fn no_depth_and_no_alias_takes_stack_or_memory() {
    let deep = "[".repeat(300_000);
    let nested = (0..300_000).map(|_| "- ").collect::<String>();
    let mut doubled = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..60 {
        doubled += &format!("a{level}: &a{level} [*a{}, *a{}]\n", level - 1, level - 1);
    }
    for text in [deep, nested, doubled] {
        let error = apply_text(&text, &mut Config::x152()).unwrap_err();
        assert!(error.contains("is no YAML"), "{error}");
    }
    let error = apply_text("<!doctype html>Log in", &mut Config::x152()).unwrap_err();
    assert!(error.contains("web page (`Log in`)"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (text, problem) in [
        ("a: [", "is no YAML"),
        ("MODEL:\n  BACKBONE:\n    CONV_BODY: R-50-C4", "CONV_BODY is `R-50-C4`"),
        ("MODEL:\n  RESNETS:\n    NUM_GROUPS: many", "NUM_GROUPS is"),
        ("MODEL:\n  RPN:\n    ANCHOR_SIZES: (a, b)", "ANCHOR_SIZES is `(a, b)`"),
        ("MODEL:\n  RPN:\n    ANCHOR_STRIDE: (16,)", "ANCHOR_STRIDE"),
        ("MODEL:\n  ROI_BOX_HEAD:\n    NUM_CLASSES: 0", "classes"),
        (
            "MODEL:\n  ROI_BOX_HEAD:\n    POOLER_SCALES: (0.0625,)",
            "MODEL.ROI_BOX_HEAD.POOLER_SCALES is [0.0625]",
        ),
        ("MODEL:\n  ROI_HEADS:\n    NMS: 1.5", "`class_nms` is 1.5"),
        ("MODEL:\n  ROI_HEADS:\n    NMS: tight", "MODEL.ROI_HEADS.NMS is `tight`, no number"),
        ("INPUT:\n  MIN_SIZE_TEST: (600, 800)", "INPUT.MIN_SIZE_TEST is"),
        ("INPUT:\n  MIN_SIZE_TEST: 600\n  MAX_SIZE_TEST: 500", "`max_size` must not be below"),
        ("INPUT:\n  PIXEL_MEAN: [103.5, 116.3]", "INPUT.PIXEL_MEAN has 2 numbers; it must have 3"),
        ("INPUT:\n  PIXEL_MEAN: grey", "INPUT.PIXEL_MEAN is `grey`, no list of numbers"),
        ("DATALOADER:\n  SIZE_DIVISIBILITY: 24", "`size_divisor` must be a multiple of 32"),
        ("_BASE_: base.yaml", "_BASE_ names another file"),
    ] {
        let error = apply_text(text, &mut Config::x152()).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}
