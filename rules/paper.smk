"""Figures, tables, numbers and claims: the paper's in paper_figures/, those of any other run in a folder of its name."""

for output in OUTPUTS:

    rule:
        name:
            output.name
        input:
            relative(output.sources()),
            partial(paper_inputs, output),
        output:
            [
                (
                    report(
                        path,
                        caption=f"captions/{output.caption}",
                        category=category,
                        labels={"what": Path(path).name.replace("{which}", "")},
                    )
                    if Path(path).suffix != ".pdf"
                    else path
                )
                for path in output.patterns("{folder}/")
            ],
        log:
            f"logs/{{folder}}/{output.name}{'{which}' if output.drawn else ''}.log",
        wildcard_constraints:
            folder="|".join(OUTPUTS_OF),
            which=r"(-[a-z][a-z0-9]*)?",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            name=lambda wildcards, stem=output.name: stem + wildcards.get("which", ""),
            run=lambda wildcards: OUTPUTS_OF[wildcards.folder],
            leading=LEADING or "",
            workload=lambda wildcards, one=output: drawn_workload(one, wildcards),
        shell:
            "python3 -m evaluation.paper {params.name} --run {params.run} --leading {params.leading:q} > {log} 2>&1"


rule verdicts:
    """Of this machine's run: measures it, draws it, and prints what was decided."""
    input:
        relative(sources("evaluation.paper.verdicts")),
        paper_outputs(RUN),
    log:
        "logs/verdicts.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        run=RUN,
    shell:
        "python3 -m evaluation.paper.verdicts --run {params.run} 2> {log}"
