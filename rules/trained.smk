"""A trained model for `model.path`, from a package that ships its weights: see envs/trained.txt. Asked for by name."""


rule trained:
    input:
        relative(sources("evaluation.measure.trained")),
        "envs/trained.txt",
    output:
        directory("results/trained/smollm2"),
    log:
        "logs/trained.log",
    localrule: True
    conda:
        ENVIRONMENT
    shell:
        "python3 -m evaluation.measure.trained --out {output} > {log} 2>&1"
