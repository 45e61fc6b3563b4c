"""The other end of `recorded`'s questions: reads one as JSON from stdin, prints the trainer's answer as JSON."""

import json
import sys

from ablate.trainers.recorded import Question, answer

print(json.dumps(answer(Question(**json.load(sys.stdin)))))
