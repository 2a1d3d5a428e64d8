# Three doors into one hallway: each rule ends in a nuScenes root under data/, with .complete.json written last.


rule synthetic:
    output:
        complete="data/{dataset}/.complete.json",
    params:
        dataset=dataset,
    log:
        "logs/{dataset}/synthetic.log",
    benchmark:
        "results/{dataset}/benchmarks/synthetic.tsv"
    wildcard_constraints:
        dataset=one_of(settings.of_kind(CONFIG, "synthetic")),
    threads: CORES
    conda:
        CPU_ENVIRONMENT
    message:
        "Rendering the synthetic data set {wildcards.dataset}"
    script:
        "../scripts/synthetic.py"


rule nuscenes:
    output:
        complete="data/{dataset}/.complete.json",
    params:
        dataset=dataset,
    log:
        "logs/{dataset}/nuscenes.log",
    benchmark:
        "results/{dataset}/benchmarks/nuscenes.tsv"
    wildcard_constraints:
        dataset=one_of(settings.of_kind(CONFIG, "nuscenes")),
    conda:
        CPU_ENVIRONMENT
    message:
        "Bringing in the nuScenes data set {wildcards.dataset}"
    script:
        "../scripts/nuscenes.py"


rule xtreme1:
    output:
        complete="data/{dataset}/.complete.json",
    params:
        dataset=dataset,
        mark=export_mark,
    log:
        "logs/{dataset}/xtreme1.log",
    benchmark:
        "results/{dataset}/benchmarks/xtreme1.tsv"
    wildcard_constraints:
        dataset=one_of(settings.of_kind(CONFIG, "xtreme1")),
    conda:
        CPU_ENVIRONMENT
    message:
        "Importing the Xtreme1 export {wildcards.dataset}"
    script:
        "../scripts/xtreme1.py"


rule weights:
    output:
        "data/weights/{key}/model.pdparams",
    params:
        source=lambda wildcards: next(
            public(entry["weights"])
            for entry in CONFIG["runs"].values()
            if isinstance(entry["weights"], dict) and weights_key(entry["weights"]) == wildcards.key
        ),
    log:
        "logs/weights/{key}.log",
    benchmark:
        "logs/weights/{key}.tsv"
    wildcard_constraints:
        key="[0-9a-f]{12}",
    conda:
        CPU_ENVIRONMENT
    message:
        "Fetching weights from {params.source[url]}"
    script:
        "../scripts/weights.py"
