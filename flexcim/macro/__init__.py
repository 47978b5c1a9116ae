"""How a macro is driven: its commands, programs and stream beats, and its exact cycle model.

>>> from flexcim.config.macro import preset
>>> from flexcim.config.pattern import Pattern
>>> from flexcim.macro.commands import Load, Run
>>> from flexcim.macro.cycles import program_cycles
>>> from flexcim.macro.program import LoadStep, Program, RunStep
>>> run = Run(bank=0, pattern=Pattern(4, 8), groups=1, rows=8, vectors=100)
>>> program = Program((LoadStep(Load(bank=0, rows=8), tile=0), RunStep(run, tile=0)))
>>> program_cycles(preset("board"), program)
ProgramCycles(cycles=838, issue_cycles=800)
"""
