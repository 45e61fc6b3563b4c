"""The process that `recorded` asks: it reads a question as JSON from stdin and prints the trainer's answer as JSON."""

import json
import sys

from ablate.trainers.recorded import Question, answer

print(json.dumps(answer(Question(**json.load(sys.stdin)))))
