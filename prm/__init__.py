"""Process reward models: training with learned domain weights, scoring, selection, report. Importing it is cheap."""
