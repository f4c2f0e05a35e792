"""Film reviews with real people's scores, downloaded to the user's own machine.

Judges that the reward model never saw: a rule-based sentiment scorer and a fluency score.
Not here: any of the reviews' text; none is part of this project.
"""
