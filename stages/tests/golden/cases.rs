//! The cases: a stage, its params, what it reads. To cover a new stage, add an entry. Fixtures are tiny: all of
//! them together take seconds.

/// One run of a stage.
pub struct Case {
    /// What other cases and the kept file call it.
    pub name: &'static str,
    /// The stage.
    pub stage: &'static str,
    /// Its params, as in a pipeline.
    pub params: &'static str,
    /// What it reads, by port: `case/path` of a case before it, `./path` from the project's root.
    pub inputs: &'static [(&'static str, &'static str)],
}

const fn case(
    name: &'static str,
    stage: &'static str,
    params: &'static str,
    inputs: &'static [(&'static str, &'static str)],
) -> Case {
    Case { name, stage, params, inputs }
}

/// Params of tables and figures with the names of the paper's data sets, and more of them.
macro_rules! named {
    ($more:literal) => {
        concat!(
            "(profile: \"golden\", about: \"tiny\", names: (data: [(\"hmd\", \"Hateful Memes\"), (\"mmh\", \"MMHS150K\")], ",
            "modes: [(\"fc\", \"FC\"), (\"pe\", \"PE\"), (\"full\", \"Full-FT\")], ",
            "classes: [\"not hateful\", \"hateful\"], samples: (\"meme\", \"memes\"))",
            $more,
            ")"
        )
    };
}
const NAMED: &str = named!("");
const NAMED_PAGE: &str = named!(
    ", title: \"Parameter-Efficient Fine Tuning for Multimodal Hate Speech Detection in Memes\", \
     published: \"numbers and curves come from the authors' six training logs: one run for each data set\\nand mode, its seed \
     unknown, its best validation reported. On the 500 rows of the Hateful Memes validation split the\\nstandard error of one \
     ROC-AUC near 0.73 is about 0.02.\""
);

/// Every case after those that it reads.
pub const CASES: &[Case] = &[
    case(
        "synthesize",
        "synthesize",
        "(seed: 3, hmd_train: 16, hmd_dev_seen: 16, hmd_dev_unseen: 4, hmd_test_seen: 4, hmd_test_unseen: 4, \
         mmh_train: 16, mmh_val: 16, mmh_test: 16, scenes: 12, scenes_val: 4, descriptions: 2)",
        &[],
    ),
    case(
        "fetch",
        "fetch",
        "(name: \"vilbert.csv\", place: \"paper/vilbert.csv\")",
        &[("placed", "./paper/vilbert.csv")],
    ),
    case("unpack", "unpack", "()", &[("archive", "synthesize/hateful_memes.zip")]),
    case("index-hmd", "index-hmd", "()", &[("archive", "synthesize/hateful_memes.zip")]),
    case("index-mmhs", "index-mmhs", "()", &[("archive", "synthesize/mmhs150k.zip")]),
    case(
        "index-table",
        "index-table",
        "(name: \"table\", columns: (image: \"img\"), split: (val: 0.25, test: 0.25, share_texts: true))",
        &[("images", "unpack/data"), ("table", "unpack/data/train.jsonl")],
    ),
    case("stand-in", "stand-in", "(of: \"detector\", small: true)", &[]),
    case("stand-in-visualbert", "stand-in", "(of: \"visualbert\", small: true)", &[]),
    case("stand-in-run", "stand-in", "(of: \"run\", small: true)", &[]),
    case("stand-in-bert", "stand-in", "(of: \"bert\", small: true)", &[]),
    case("stand-in-vocabulary", "stand-in", "(of: \"vocabulary\", small: true)", &[]),
    case(
        "stand-in-features",
        "stand-in",
        "(of: \"features\", small: true)",
        &[("samples", "index-hmd/samples")],
    ),
    case("unpack-features", "unpack", "()", &[("archive", "stand-in-features/features.tar.gz")]),
    case(
        "import-features-lmdb",
        "import-features",
        "(regions: 4)",
        &[("features", "unpack-features"), ("samples", "index-hmd/samples")],
    ),
    case("data", "data", "(pictures: 2)", &[("indexes", "index-hmd")]),
    case("learn-vocabulary", "learn-vocabulary", "(size: 120)", &[("text", "synthesize/corpus.txt")]),
    case(
        "scene-tokens",
        "tokens",
        "(max_length: 16)",
        &[("samples", "synthesize/scenes/samples"), ("vocabulary", "learn-vocabulary/vocab.txt")],
    ),
    case(
        "tokens",
        "tokens",
        "(max_length: 24)",
        &[("samples", "index-hmd/samples"), ("vocabulary", "learn-vocabulary/vocab.txt")],
    ),
    case("make-detector", "make-detector", "(examples: 8)", &[("scenes", "synthesize/scenes")]),
    case(
        "import-detector",
        "import-detector",
        DETECTOR,
        &[("checkpoint", "./stages/tests/fixtures/detector.pth")],
    ),
    case(
        "scene-regions",
        "regions",
        "(regions: 3)",
        &[("images", "synthesize/scenes/images"), ("detector", "make-detector")],
    ),
    case(
        "regions",
        "regions",
        "(regions: 4, shard: 10)",
        &[("images", "index-hmd/images"), ("detector", "make-detector")],
    ),
    case(
        "import-features",
        "import-features",
        "(regions: 2, shard: 1)",
        &[
            ("features", "./stages/tests/fixtures/features/features.tsv"),
            ("samples", "./stages/tests/fixtures/features/samples"),
        ],
    ),
    case(
        "pretrain",
        "pretrain",
        "(hidden: 16, layers: 2, heads: 2, intermediate: 32, positions: 24, initializer_range: 0.1, dropout: 0.1, \
         seed: 3, batch: 8, updates: 4, warm_up: 1, lr: 2e-3, evaluate_every: 2)",
        &[("tokens", "scene-tokens"), ("regions", "scene-regions")],
    ),
    case(
        "import-visualbert",
        "import-visualbert",
        "(config: (vocab_size: 5, hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8, \
         max_position_embeddings: 6, type_vocab_size: 2, adapter_divisor: 2, visual_embedding_dim: 3))",
        &[("archive", "./stages/tests/fixtures/import_model/zip.pth")],
    ),
    case(
        "pretrain-vilbert",
        "pretrain",
        "(model: \"vilbert\", hidden: 16, layers: 2, heads: 2, intermediate: 32, positions: 24, \
         initializer_range: 0.1, dropout: 0.1, seed: 3, batch: 8, updates: 4, warm_up: 1, lr: 2e-3, evaluate_every: 2)",
        &[("tokens", "scene-tokens"), ("regions", "scene-regions")],
    ),
    case(
        "import-vilbert",
        "import-vilbert",
        "(config: (vocab_size: 5, hidden_size: 4, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8, \
         max_position_embeddings: 6, type_vocab_size: 2, v_feature_size: 3, v_hidden_size: 6, v_num_hidden_layers: 1, \
         v_num_attention_heads: 2, v_intermediate_size: 6, bi_hidden_size: 6, bi_num_attention_heads: 2, \
         t_biattention_id: [0], v_biattention_id: [0], adapter_divisor: 2))",
        &[("archive", "./stages/tests/fixtures/import_model/vilbert.pth")],
    ),
    case(
        "import-run",
        "import-run",
        "(dataset: \"hmd\", config: (num_attention_heads: 2))",
        &[("archive", "stand-in-run/checkpoint.tar.gz")],
    ),
    train(
        "train-fc",
        "(mode: \"fc\", seed: 1, batch: 8, updates: 4, warm_up: 1, lr: 1e-2, evaluate_every: 2, log_every: 1)",
    ),
    train(
        "train-pe",
        "(mode: \"pe\", seed: 2, batch: 8, updates: 4, warm_up: 1, lr: 1e-2, evaluate_every: 2, log_every: 1)",
    ),
    train(
        "train-full",
        "(mode: \"full\", seed: 3, batch: 8, updates: 4, warm_up: 1, lr: 2e-3, evaluate_every: 2, log_every: 1)",
    ),
    Case {
        inputs: &[("tokens", "tokens"), ("regions", "regions"), ("weights", "pretrain-vilbert")],
        ..train(
            "train-vilbert-pe",
            "(mode: \"pe\", seed: 2, batch: 8, updates: 4, warm_up: 1, lr: 1e-2, evaluate_every: 2, log_every: 1)",
        )
    },
    evaluate("evaluate-fc", &[("run", "train-fc"), ("tokens", "tokens"), ("regions", "regions")]),
    evaluate("evaluate-full", &[("run", "train-full"), ("tokens", "tokens"), ("regions", "regions")]),
    case(
        "evaluate-predictions",
        "evaluate",
        "(name: \"theirs\")",
        &[("predictions", "evaluate-fc/predictions.csv"), ("tokens", "tokens")],
    ),
    case("predict", "predict", "()", &[("run", "train-pe"), ("tokens", "tokens"), ("regions", "regions")]),
    case(
        "parameters",
        "parameters",
        NAMED,
        &[
            ("published", "./paper/runs.csv"),
            ("vilbert", "./paper/vilbert.csv"),
            ("model", "pretrain/config.json"),
        ],
    ),
    case(
        "results",
        "results",
        NAMED,
        &[
            ("published", "./paper/runs.csv"),
            ("quoted", "./paper/quoted.csv"),
            ("splits", "./paper/splits.csv"),
            ("runs", "evaluate-fc"),
            ("runs", "evaluate-full"),
        ],
    ),
    case(
        "claims",
        "claims",
        NAMED,
        &[
            ("published", "./paper/runs.csv"),
            ("quoted", "./paper/quoted.csv"),
            ("splits", "./paper/splits.csv"),
            ("vilbert", "./paper/vilbert.csv"),
            ("runs", "evaluate-fc"),
            ("runs", "evaluate-full"),
        ],
    ),
    case("shift", "shift", NAMED, &[("runs", "evaluate-fc"), ("runs", "evaluate-full")]),
    case(
        "compare-regions",
        "compare-regions",
        NAMED,
        &[
            ("published", "import-features-lmdb"),
            ("own", "regions"),
            ("published_runs", "evaluate-fc"),
            ("published_runs", "evaluate-full"),
            ("own_runs", "evaluate-full"),
        ],
    ),
    case(
        "curves",
        "curves",
        NAMED,
        &[
            ("published", "./paper/curves.csv"),
            ("runs", "train-fc"),
            ("runs", "train-pe"),
            ("runs", "train-full"),
        ],
    ),
    case("roc", "roc", NAMED, &[("runs", "evaluate-fc"), ("runs", "evaluate-full")]),
    case(
        "report",
        "report",
        NAMED_PAGE,
        &[
            ("parts", "claims"),
            ("parts", "parameters"),
            ("parts", "results"),
            ("parts", "curves"),
            ("parts", "roc"),
            ("runs", "train-pe"),
        ],
    ),
];

const fn train(name: &'static str, params: &'static str) -> Case {
    case(name, "train", params, &[("tokens", "tokens"), ("regions", "regions"), ("weights", "pretrain")])
}

const fn evaluate(name: &'static str, inputs: &'static [(&'static str, &'static str)]) -> Case {
    case(name, "evaluate", "()", inputs)
}

/// The dimensions of `fixtures/detector.pth`.
const DETECTOR: &str = "(config: (stem_width: 2, blocks: [1], groups: 1, width_per_group: 2, stage_widths: [3], \
    stride_in_1x1: false, pyramid_width: 2, anchor_sizes: [8, 16], anchor_ratios: [1.0], \
    proposals: (before_nms: 10, nms: 0.7, after_nms: 5, over_levels: 5), pooled_size: 2, sampling_ratio: 2, \
    head_width: 3, classes: 3, class_nms: 0.5, min_size: 32, max_size: 64, size_divisor: 4, \
    means_bgr: (102.0, 115.0, 122.0)))";
