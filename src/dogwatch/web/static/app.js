// Joins the parts of the console. Each part works on what the server rendered.
import { startBars } from "./bars.js";
import { startBoard } from "./board.js";
import { startCharts } from "./charts.js";
import { startLive } from "./live.js";
import { startPalette } from "./palette.js";
import { startRuns } from "./runs.js";
import { startStart } from "./start.js";
import { startTheme } from "./switch.js";
import { startTimes } from "./times.js";
import { startActions } from "./actions.js";
import { startAccess } from "./access.js";
import { startIncidents } from "./incidents.js";
import { startLogs } from "./logs.js";

startTheme();
startTimes();
startBars();
startCharts();
startBoard();
startActions();
startRuns();
startStart();
startAccess();
startIncidents();
startLogs();
startPalette();
startLive();
document.addEventListener("click", (event) => { if (event.target.closest?.("[data-print]")) window.print(); });
