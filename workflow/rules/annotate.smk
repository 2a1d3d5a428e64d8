# From a nuScenes root to the memory-mapped store of keyframes, cameras and boxes, one file a split.


rule annotate:
    input:
        complete="data/{dataset}/.complete.json",
    output:
        train="results/{dataset}/annotations/train.arrow",
        val="results/{dataset}/annotations/val.arrow",
        provenance="results/{dataset}/annotations/provenance.json",
    log:
        "logs/{dataset}/annotate.log",
    benchmark:
        "results/{dataset}/benchmarks/annotate.tsv"
    conda:
        CPU_ENVIRONMENT
    message:
        "Annotations of {wildcards.dataset}"
    script:
        "../scripts/annotate.py"


rule classic:
    input:
        complete="data/{dataset}/.complete.json",
        store="results/{dataset}/annotations/{split}.arrow",
    output:
        pkl="results/{dataset}/annotations/petr_nuscenes_annotation_{split}.pkl",
    log:
        "logs/{dataset}/classic-{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/classic-{split}.tsv"
    conda:
        CPU_ENVIRONMENT
    message:
        "Annotations of {wildcards.dataset}, {wildcards.split} split, as stock Paddle3D reads them"
    script:
        "../scripts/classic.py"
