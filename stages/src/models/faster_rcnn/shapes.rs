//! The tensors of a detector: names as in the published checkpoint, shapes from the config. It
//! allocates nothing, so the big model can be counted anywhere.

use super::config::Config;

/// The four tensors of a frozen batch normalisation.
pub const NORM_TENSORS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// Name and shape of every tensor, in the order of the data's path.
pub fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let mut list = Vec::new();
    let mut conv = |name: String, norm: String, shape: [usize; 4]| {
        list.push((format!("{name}.weight"), shape.to_vec()));
        list.extend(NORM_TENSORS.iter().map(|part| (format!("{norm}.{part}"), vec![shape[0]])));
    };
    let stem = "backbone.body.stem";
    conv(format!("{stem}.conv1"), format!("{stem}.bn1"), [config.stem_width, 3, 7, 7]);
    let mut inputs = config.stem_width;
    for (stage, (&blocks, &outputs)) in config.blocks.iter().zip(&config.stage_widths).enumerate() {
        let width = config.bottleneck_width(stage);
        for block in 0..blocks {
            let at = format!("backbone.body.layer{}.{block}", stage + 1);
            if block == 0 {
                let shape = [outputs, inputs, 1, 1];
                conv(format!("{at}.downsample.0"), format!("{at}.downsample.1"), shape);
            }
            conv(format!("{at}.conv1"), format!("{at}.bn1"), [width, inputs, 1, 1]);
            conv(format!("{at}.conv2"), format!("{at}.bn2"), [width, width / config.groups, 3, 3]);
            conv(format!("{at}.conv3"), format!("{at}.bn3"), [outputs, width, 1, 1]);
            inputs = outputs;
        }
    }
    let mut biased = |name: String, shape: &[usize]| {
        list.push((format!("{name}.weight"), shape.to_vec()));
        list.push((format!("{name}.bias"), vec![shape[0]]));
    };
    let pyramid = config.pyramid_width;
    for (stage, &outputs) in config.stage_widths.iter().enumerate() {
        biased(format!("backbone.fpn.fpn_inner{}", stage + 1), &[pyramid, outputs, 1, 1]);
        biased(format!("backbone.fpn.fpn_layer{}", stage + 1), &[pyramid, pyramid, 3, 3]);
    }
    let anchors = config.anchor_ratios.len();
    biased("rpn.head.conv".to_owned(), &[pyramid, pyramid, 3, 3]);
    biased("rpn.head.cls_logits".to_owned(), &[anchors, pyramid, 1, 1]);
    biased("rpn.head.bbox_pred".to_owned(), &[4 * anchors, pyramid, 1, 1]);
    let (head, classes) = (config.head_width, config.classes);
    biased("roi_heads.box.feature_extractor.fc6".to_owned(), &[head, config.pooled_values()]);
    biased("roi_heads.box.feature_extractor.fc7".to_owned(), &[head, head]);
    biased("roi_heads.box.predictor.cls_score".to_owned(), &[classes, head]);
    // Read by nothing here (proposals are never refined), but part of the checkpoint.
    biased("roi_heads.box.predictor.bbox_pred".to_owned(), &[4 * classes, head]);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(list: &[(String, Vec<usize>)], keep: impl Fn(&str) -> bool) -> usize {
        list.iter().filter(|(name, _)| keep(name)).map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    #[test]
    fn x152_has_the_published_numbers_of_weights() {
        let list = tensors(&Config::x152());
        let is_norm = |name: &str| {
            name.starts_with("backbone.body") && (name.contains(".bn") || name.contains("downsample.1"))
        };
        assert_eq!(count(&list, |name| name.starts_with("backbone.body") && !is_norm(name)), 120_028_352);
        assert_eq!(count(&list, is_norm), 590_080);
        assert_eq!(count(&list, |name| name.starts_with("backbone.fpn")), 11_407_360);
        assert_eq!(count(&list, |name| name.starts_with("rpn")), 2_367_503);
        assert_eq!(count(&list, |name| name.starts_with("roi_heads")), 71_980_869);
        assert_eq!(count(&list, |_| true), 205_784_084 + 590_080);
    }

    #[test]
    fn x152_has_the_published_names_and_shapes() {
        let list = tensors(&Config::x152());
        let expected: [(&str, &[usize]); 8] = [
            ("backbone.body.stem.conv1.weight", &[64, 3, 7, 7]),
            ("backbone.body.layer3.35.conv2.weight", &[1024, 32, 3, 3]),
            ("backbone.body.layer4.0.downsample.1.running_var", &[2048]),
            ("backbone.fpn.fpn_inner4.weight", &[512, 2048, 1, 1]),
            ("rpn.head.bbox_pred.weight", &[12, 512, 1, 1]),
            ("roi_heads.box.feature_extractor.fc6.weight", &[2048, 25088]),
            ("roi_heads.box.predictor.cls_score.bias", &[1601]),
            ("roi_heads.box.predictor.bbox_pred.weight", &[6404, 2048]),
        ];
        for (name, shape) in expected {
            assert!(list.iter().any(|(n, s)| n == name && s == shape), "{name}");
        }
        let mut names: Vec<&String> = list.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), list.len());
    }

    #[test]
    fn both_configs_pass_their_check() {
        Config::x152().check().unwrap();
        Config::mini(9).check().unwrap();
        assert!(Config { size_divisor: 8, ..Config::mini(9) }.check().unwrap_err().contains("size_divisor"));
    }
}
