//! The model card of an exported run: what it is, what it reached, how it was made, how to use it. The front matter is what the
//! Hugging Face Hub reads of a model's `README.md`.

use std::fmt::Write;

use serde_json::{Value, json};
use stage_api::{StageError, StepView, ToolContext};

use crate::artifacts::metrics::Metrics;
use crate::artifacts::weights;
use crate::export::tracked::settings;
use crate::metrics::bootstrap::Interval;
use crate::models::{Config, Head};
use crate::training::inference::{self, REGIONS, RUN, TOKENS};

/// The metrics of the card: their names for people and for the Hub, and where an evaluation has them.
type Measure = (&'static str, &'static str, fn(&Metrics) -> Option<(f64, Option<Interval>)>);

const MEASURES: [Measure; 6] = [
    ("ROC-AUC", "roc_auc", |found| Some((found.roc_auc, found.intervals.roc_auc))),
    ("Average precision", "average_precision", |found| {
        Some((found.average_precision, found.intervals.average_precision))
    }),
    ("F1", "f1", |found| Some((found.f1?, found.intervals.f1))),
    ("Macro F1", "f1_macro", |found| Some((found.f1_macro?, found.intervals.f1_macro))),
    ("Micro F1", "f1_micro", |found| Some((found.f1_micro?, found.intervals.f1_micro))),
    ("Accuracy", "accuracy", |found| Some((found.accuracy, found.intervals.accuracy))),
];

/// What the card says of a run.
pub(super) struct Card {
    step: StepView,
    profile: String,
    /// What the evaluations of the run found, by step.
    evaluations: Vec<(String, Metrics)>,
    /// The names of the classes by number.
    pub(super) classes: Vec<String>,
    /// What the head tells apart.
    head: Head,
    /// The pages on which the owners of the data that led to the run state their terms.
    licences: Vec<String>,
    /// The most ids of a text.
    max_length: usize,
    /// The options of `repro regions` by which a picture's regions are extracted as the run's own were.
    extraction: Vec<String>,
    /// Whether the vocabulary is in the folder.
    pub(super) has_vocabulary: bool,
}

impl Card {
    /// Gathers what is known of the run that the step `name` trained or imported.
    ///
    /// # Errors
    /// No such step; results that cannot be read.
    pub(super) fn read(context: &ToolContext, name: &str) -> Result<Self, StageError> {
        let step = inference::step(context, name)?;
        let config: Config = weights::read_config(&context.results.output(name)?)?;
        let steps = context.results.steps();
        let mut evaluations = Vec::new();
        for reader in &steps {
            let reads = reader.inputs.iter().any(|input| input.port == RUN && input.step() == Some(name));
            if reads && reader.stage == "evaluate" && reader.run.is_some() {
                let found = Metrics::read(&context.results.part(&reader.name, Metrics::FILE)?)?;
                evaluations.push((reader.name.clone(), found));
            }
        }
        let mut licences = Vec::new();
        for above in upstream(&steps, name) {
            let found = settings(&above.params)?.into_iter().find(|(name, _)| name == "licence");
            licences.extend(found.and_then(|(_, value)| value.as_str().map(ToOwned::to_owned)));
        }
        licences.sort();
        licences.dedup();
        let maker = |port: &str| {
            let input = inference::own_input(&step, port, context)?;
            steps.iter().find(|step| Some(step.name.as_str()) == input.step())
        };
        let number = |of: Option<&StepView>, param: &str| -> Result<Option<u64>, StageError> {
            let settings = of.map_or(Ok(Vec::new()), |step| settings(&step.params))?;
            Ok(settings.into_iter().find(|(name, _)| name == param).and_then(|(_, value)| value.as_u64()))
        };
        let (positions, head) = (config.dimensions().positions, config.dimensions().head);
        let named =
            |(_, found): &(String, Metrics)| found.classes.titles().into_iter().map(str::to_owned).collect();
        let classes: Option<Vec<String>> = evaluations.first().map(named);
        let numbered = || (0..head.labels).map(|class| format!("class {class}")).collect();
        let max_length = number(maker(TOKENS), "max_length")?.map_or(positions, |most| most as usize);
        let mut extraction = Vec::new();
        if let Some(most) = number(maker(REGIONS), REGIONS)? {
            extraction.extend(["--most".to_owned(), most.to_string()]);
        }
        Ok(Self {
            step,
            profile: context.results.profile().to_owned(),
            evaluations,
            classes: classes.filter(|classes| classes.len() == head.labels).unwrap_or_else(numbered),
            head,
            licences,
            max_length: max_length.min(positions),
            extraction,
            has_vocabulary: false,
        })
    }

    /// What transformers reads of the tokenizer: BERT's, uncased.
    pub(super) fn tokenizer(&self) -> Value {
        json!({"tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": self.max_length})
    }

    /// The card as Markdown.
    ///
    /// # Errors
    /// Params that cannot be read.
    pub(super) fn markdown(&self) -> Result<String, StageError> {
        let Self { step, profile, evaluations, licences, .. } = self;
        let name = &step.name;
        let mut card = format!("---\n{}---\n\n# {name}\n\n", self.front_matter());
        let mut line = |text: &str| card.push_str(&format!("{text}\n"));
        line(&self.purpose());
        line("\n## Results\n");
        if evaluations.is_empty() {
            line("No evaluation is up to date.");
        } else {
            line(&format!(
                "| data | split | rows | {} |",
                self.measures().map(|(title, ..)| *title).collect::<Vec<_>>().join(" | ")
            ));
            line(&format!("| --- | --- | ---: |{}", " ---: |".repeat(self.measures().count())));
        }
        for (_, found) in evaluations {
            let cells = self.measures().map(|(.., of)| of(found).map_or(String::new(), shown));
            let (data, split) = (&found.dataset, found.split.as_str());
            line(&format!(
                "| {data} | {split} | {} | {} |",
                found.rows,
                cells.collect::<Vec<_>>().join(" | ")
            ));
        }
        line("\nIn brackets: 95% intervals, bootstrap over the rows.");
        line("\n## Use\n");
        line(&self.example());
        line("\n## How it was made\n");
        let key = step.key.as_deref().unwrap_or("unknown");
        line(&format!(
            "By step `{name}` of profile `{profile}` (stage `{}` {}, key `{key}`):\n",
            step.stage, step.version
        ));
        line("| param | value |");
        line("| --- | --- |");
        for (param, value) in settings(&step.params)? {
            line(&format!("| `{param}` | {value} |"));
        }
        line(
            "\n`repro why STEP` explains the key; `repro export STEP --to ro-crate` writes all that led to it.",
        );
        line("\n## Data and licence\n");
        let inputs = step.inputs.iter().map(|input| format!("`{}`", input.source));
        line(&format!("Trained from {}.", inputs.collect::<Vec<_>>().join(", ")));
        match licences.is_empty() {
            true => line("No licence is given: ask the authors before you use it."),
            false => line(&format!(
                "No licence of the model is given. The data it was trained on has terms of its own: {}.",
                licences.join(", ")
            )),
        }
        Ok(card)
    }

    /// The metrics that its evaluations have.
    fn measures(&self) -> impl Iterator<Item = &'static Measure> {
        MEASURES.iter().filter(|(.., of)| self.evaluations.iter().any(|(_, found)| of(found).is_some()))
    }

    /// What the model is for.
    fn purpose(&self) -> String {
        let named = self.classes.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let what = match (self.head.is_binary(), self.head.is_multi_label()) {
            (true, _) => {
                format!("the probability that a picture with its text is of class 1, {}", self.classes[1])
            }
            (false, false) => format!("which of the classes {named} a picture with its text has"),
            (false, true) => format!(
                "the probability of each of the classes {named}, of which a picture with its text may have any number"
            ),
        };
        format!("VisualBERT with a classification head: {what}.")
    }

    fn front_matter(&self) -> String {
        let name = &self.step.name;
        let metric = |(title, kind, of): &Measure, found: &Metrics| {
            of(found).map(|(value, _)| json!({"type": kind, "name": title, "value": value}))
        };
        let result = |(step, found): &(String, Metrics)| {
            json!({
                "task": {"type": "other", "name": "classification of pictures with texts"},
                "dataset": {"type": found.dataset, "name": found.dataset, "split": found.split.as_str()},
                "metrics": MEASURES.iter().filter_map(|measure| metric(measure, found)).collect::<Vec<_>>(),
                "source": {"name": format!("repro, step {step}"), "url": "README.md"},
            })
        };
        let results: Vec<Value> = self.evaluations.iter().map(result).collect();
        // JSON is YAML.
        let mut text =
            String::from("library_name: transformers\nlicense: unknown\ntags: [\"visual_bert\"]\n");
        if !results.is_empty() {
            let index = json!([{"name": name, "results": results}]);
            let _ = writeln!(text, "model-index: {index}");
        }
        text
    }

    /// The end of the example: probabilities of logits.
    fn shown_probabilities(&self) -> &'static str {
        match (self.head.is_binary(), self.head.is_multi_label()) {
            (true, _) => "print(logits.softmax(-1)[0, 1].item())  # P(class 1)",
            // By number: JSON has the classes in the order of their numbers as text, 10 before 2.
            (false, false) => {
                "print({model.config.id2label[i]: p for i, p in enumerate(logits.softmax(-1)[0].tolist())})"
            }
            (false, true) => {
                "print({model.config.id2label[i]: p for i, p in enumerate(logits.sigmoid()[0].tolist())})"
            }
        }
    }

    fn example(&self) -> String {
        if !self.has_vocabulary {
            return "The vocabulary is not known here: no step of the pipeline tokenizes texts for this run.\n\n\
                    `AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)` loads the model."
                .to_owned();
        }
        format!(
            "```python\n\
             import subprocess\n\
             import numpy\n\
             import torch\n\
             from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\
             \n\
             FOLDER, PICTURE, TEXT = \".\", \"meme.png\", \"what the meme says\"\n\
             # Run in the project: its detector gives the features of the picture's regions.\n\
             subprocess.run([\"repro\", \"regions\", PICTURE, {}\"--npy\", \"meme.npy\"], check=True)\n\
             visual = torch.from_numpy(numpy.load(\"meme.npy\"))[None]\n\
             tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n\
             text = tokenizer(TEXT, return_tensors=\"pt\", truncation=True, max_length={})\n\
             model = AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True).eval()\n\
             with torch.no_grad():\n\
             \x20   logits = model(\n\
             \x20       input_ids=text[\"input_ids\"], attention_mask=text[\"attention_mask\"].float(), visual_embeds=visual,\n\
             \x20       visual_attention_mask=torch.ones(visual.shape[:2])).logits\n\
             {}\n\
             ```",
            self.extraction.iter().map(|word| format!("{word:?}, ")).collect::<String>(),
            self.max_length,
            self.shown_probabilities()
        )
    }
}

/// A value with its interval.
fn shown((value, interval): (f64, Option<Interval>)) -> String {
    match interval {
        Some(Interval { low, high }) => format!("{value:.4} ({low:.4} to {high:.4})"),
        None => format!("{value:.4}"),
    }
}

/// The step `name` and all that it reads, directly or not.
fn upstream<'a>(steps: &'a [StepView], name: &str) -> Vec<&'a StepView> {
    let mut names = vec![name.to_owned()];
    let mut found = Vec::new();
    for step in steps.iter().rev() {
        if names.contains(&step.name) {
            names.extend(step.inputs.iter().filter_map(|input| input.step().map(ToOwned::to_owned)));
            found.push(step);
        }
    }
    found
}
