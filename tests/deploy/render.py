# Renders a chart with Helm: what is asked for is JSON on standard input, the answer JSON on standard output.
import json
import sys

from helm_python import Chart, HelmError

asked = json.load(sys.stdin)
try:
    chart = Chart.load(asked["chart"])
    chart.validate_schema(asked["values"])
    files = chart.render(asked["values"], name=asked["name"], namespace=asked["namespace"])
    json.dump({"files": files}, sys.stdout)
except HelmError as error:
    json.dump({"error": str(error)}, sys.stdout)
