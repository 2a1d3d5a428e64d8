# The doors: each rule ends in a nuScenes root under data/, and what petrflow knows about it in results/{dataset}/root.


rule synthetic:
    output:
        receipt="results/{dataset}/receipts/synthetic-{fingerprint}.json",
    params:
        arguments=arguments("synthetic"),
        order=order("synthetic"),
        log=log_of("synthetic"),
    wildcard_constraints:
        dataset=one_of(settings.of_kind(CONFIG, "synthetic")),
    threads: CORES
    conda:
        CPU_ENVIRONMENT
    message:
        "Rendering the synthetic data set {wildcards.dataset}"
    script:
        "../scripts/prepare_synthetic.py"


rule nuscenes:
    output:
        receipt="results/{dataset}/receipts/nuscenes-{fingerprint}.json",
    params:
        arguments=arguments("nuscenes"),
        order=order("nuscenes"),
        log=log_of("nuscenes"),
    wildcard_constraints:
        dataset=one_of(settings.of_kind(CONFIG, "nuscenes")),
    conda:
        CPU_ENVIRONMENT
    message:
        "Bringing in the nuScenes data set {wildcards.dataset}"
    script:
        "../scripts/prepare_nuscenes.py"


rule xtreme1:
    output:
        receipt="results/{dataset}/receipts/xtreme1-{fingerprint}.json",
    params:
        arguments=arguments("xtreme1"),
        order=order("xtreme1"),
        log=log_of("xtreme1"),
    wildcard_constraints:
        dataset=one_of(settings.of_kind(CONFIG, "xtreme1")),
    conda:
        CPU_ENVIRONMENT
    message:
        "Importing the Xtreme1 export {wildcards.dataset}"
    script:
        "../scripts/prepare_xtreme1.py"


rule weights:
    output:
        receipt="data/weights/{key}/receipts/weights-{fingerprint}.json",
    params:
        arguments=lambda wildcards: {"path": PLAN.stage("weights", wildcards.key).folder / "model.pdparams"},
        order=order("weights"),
        log=log_of("weights"),
    conda:
        CPU_ENVIRONMENT
    message:
        "Fetching the weights {wildcards.key}"
    script:
        "../scripts/weights.py"
